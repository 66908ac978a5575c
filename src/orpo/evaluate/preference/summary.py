"""What an evaluation on held-out pairs says, under names that a reader understands."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["preference_summary"]

_NAMES = {
    "rewards/accuracies": "preference_accuracy",  # of ORPO, whose reward is the log-probability
    "preference_accuracy": "preference_accuracy",
    "log_odds_chosen": "log_odds_chosen",
    "logps/chosen": "logps/chosen",
    "logps/rejected": "logps/rejected",
    "nll_loss": "nll_loss",
    "loss": "loss",
}


def preference_summary(metrics: Mapping[str, float], pairs: int) -> dict[str, float]:
    """The metrics of `ORPOTrainer.evaluate()` for a before/after table.

    Args:
        metrics: With the prefix "eval_", as the trainer returns them.
        pairs: Number of pairs that were scored.

    Returns:
        preference_accuracy (share of pairs whose chosen answer is more probable per token),
        log_odds_chosen (mean log odds ratio), logps/*, nll_loss, loss, pairs.
    """
    summary = {
        ours: float(metrics[f"eval_{theirs}"])
        for theirs, ours in _NAMES.items()
        if f"eval_{theirs}" in metrics
    }
    return {**summary, "pairs": float(pairs)}
