"""The model card of a run: README.md, from what the run folder says and nothing else."""

from orpo.train.card.write import About, model_card, write_model_card

__all__ = ["About", "model_card", "write_model_card"]
