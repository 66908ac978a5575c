"""Pages and pictures of runs, audits, evaluations, comparisons and tunings."""
