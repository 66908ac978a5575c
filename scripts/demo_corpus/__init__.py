"""The world of `orpo demo`: what its base model and its preference pairs are written from."""
