"""The mathematics, as pure functions from tensors to one named result."""
