"""Several runs of one recipe: methods compared, settings tuned."""
