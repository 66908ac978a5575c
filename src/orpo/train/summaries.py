"""From sums over rows to the numbers that are logged, by objective.

Log-probabilities are length-averaged under every objective, so that their curves compare. What an
objective does not compute while training is not logged, rather than logged as zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orpo.train.step_loss import StepLoss

__all__ = ["mean_nll", "summarise", "whole_loss"]

Sums = Mapping[str, float]


def summarise(sums: Sums, rows: float, parts: StepLoss) -> dict[str, float]:
    """The objective's metrics from the column sums over a number of rows.

    Args:
        sums: Name out of `metrics.columns_of` -> its sum, see `metrics.column_sums`.
        rows: How many rows.
        parts: The loss.

    Returns:
        ORPO: nll_loss, log_odds_ratio, log_odds_chosen, rewards/*, logps/*, as TRL names them, over
            the rows with both answers.
        SFT: nll_loss, logps/chosen; where rejected answers were scored, logps/rejected,
            log_odds_chosen and preference_accuracy too.
        DPO: rewards/* as TRL has them (dpo_beta times the log-ratio to the reference), logps/*,
            log_odds_chosen, preference_accuracy, and logps_sum/*, which TRL calls logps/*.
        All: `aux_loss` for a mixture of experts.
    """
    metrics = _SUMMARIES[parts.objective](sums, rows, parts)
    if sums["aux_loss"]:
        metrics["aux_loss"] = sums["aux_loss"] / rows
    return metrics


def whole_loss(sums: Sums, parts: StepLoss, aux_loss: float = 0.0) -> float:
    """The loss of all rows as if they were one optimizer step."""
    return _LOSSES[parts.objective](sums, parts) + parts.aux_coef * aux_loss


def mean_nll(sums: Sums) -> float:
    """The NLL per token of the chosen texts."""
    return sums["nll_sum"] / sums["nll_tokens"] if sums["nll_tokens"] else 0.0


def _orpo(sums: Sums, _rows: float, parts: StepLoss) -> dict[str, float]:
    scale, pairs = parts.alpha * parts.beta, sums["has_rejected"] or 1.0
    chosen, rejected = sums["chosen_logps"] / pairs, sums["rejected_logps"] / pairs
    return {
        "nll_loss": mean_nll(sums),
        "log_odds_ratio": sums["log_odds_ratio"] / pairs,
        "log_odds_chosen": sums["log_odds"] / pairs,
        "rewards/chosen": scale * chosen,
        "rewards/rejected": scale * rejected,
        "rewards/margins": scale * (chosen - rejected),
        "rewards/accuracies": sums["accuracy"] / pairs,
        "logps/chosen": chosen,
        "logps/rejected": rejected,
    }


def _sft(sums: Sums, rows: float, _parts: StepLoss) -> dict[str, float]:
    compared = _compared(sums) or {"logps/chosen": sums["row_logps"] / rows}
    return {"nll_loss": mean_nll(sums), **compared}


def _dpo(sums: Sums, _rows: float, _parts: StepLoss) -> dict[str, float]:
    pairs = sums["has_rejected"] or 1.0
    chosen, rejected = sums["chosen_rewards"] / pairs, sums["rejected_rewards"] / pairs
    rewards = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": sums["reward_accuracy"] / pairs,
        "logps_sum/chosen": sums["chosen_sum"] / pairs,
        "logps_sum/rejected": sums["rejected_sum"] / pairs,
    }
    compared = _compared(sums)
    return {**rewards, **compared} if compared else {}


def _compared(sums: Sums) -> dict[str, float]:
    """What compares two answers, whatever was trained; nothing where there are not two."""
    pairs = sums["has_rejected"]
    if not pairs:
        return {}
    return {
        "log_odds_chosen": sums["log_odds"] / pairs,
        "preference_accuracy": sums["accuracy"] / pairs,
        "logps/chosen": sums["chosen_logps"] / pairs,
        "logps/rejected": sums["rejected_logps"] / pairs,
    }


_SUMMARIES: dict[str, Callable[[Sums, float, StepLoss], dict[str, float]]] = {
    "orpo": _orpo,
    "sft": _sft,
    "dpo": _dpo,
}


def _orpo_loss(sums: Sums, parts: StepLoss) -> float:
    preferred = parts.alpha * sums["weighted_log_odds_ratio"] / (sums["has_rejected"] or 1.0)
    return _sft_loss(sums, parts) - preferred


def _sft_loss(sums: Sums, _parts: StepLoss) -> float:
    return sums["weighted_nll"] / (sums["nll_tokens"] or 1.0)


def _dpo_loss(sums: Sums, _parts: StepLoss) -> float:
    return -sums["weighted_log_sigmoid"] / (sums["has_rejected"] or 1.0)


_LOSSES: dict[str, Callable[[Sums, StepLoss], float]] = {
    "orpo": _orpo_loss,
    "sft": _sft_loss,
    "dpo": _dpo_loss,
}
