"""Evidence: answers, metrics and verdicts on held-out prompts."""
