"""`orpo push`: what goes to the Hub, made public first, and how it gets there."""
