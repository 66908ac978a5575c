"""Scoring held-out pairs with a trainer's model: log-probabilities are kept, logits never."""

from __future__ import annotations

from collections.abc import Mapping

from transformers import EvalPrediction

from orpo.evaluate.preference.groups import RowFacts
from orpo.evaluate.preference.pairs import ScoredPairs, token_counts
from orpo.train.trainer import ORPOTrainer

__all__ = ["score_pairs"]


def score_pairs(
    trainer: ORPOTrainer, facts: Mapping[int, RowFacts]
) -> tuple[dict[str, float], ScoredPairs]:
    """Evaluate a trainer's model on its evaluation data.

    Args:
        trainer: With map-style evaluation data, one data set.
        facts: Row index -> what is known of it.

    Returns:
        The metrics of `trainer.evaluate()`, and the pairs with their scores, on every rank.
    """
    seen: list[EvalPrediction] = []
    custom = trainer.compute_metrics

    def keep(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction)
        return {} if custom is None else custom(prediction)

    trainer.compute_metrics = keep
    try:
        metrics = trainer.evaluate()
    finally:
        trainer.compute_metrics = custom
    lengths = token_counts(trainer.eval_dataset)
    return metrics, ScoredPairs.of(seen[-1].label_ids, seen[-1].predictions, facts, lengths)
