"""How a batch of pairs goes through a model."""
