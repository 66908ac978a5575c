"""What `orpo tune` is made of: short runs, the study that they belong to, and the choice."""
