"""Training: a thin trainer over `transformers.Trainer`, its guards and its run folder."""
