"""What stops a run before it is spoilt, and what says in words that it goes wrong."""
