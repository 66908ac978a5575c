"""The numbers of a run, under TRL's names, exact over batches and ranks.

Every pair contributes one row of `COLUMNS`; sums of rows are what is accumulated, on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from orpo.objective import ORPOLoss, PairLogps

__all__ = ["COLUMNS", "MetricSums", "pair_table", "summarise"]

COLUMNS = (
    "nll_sum",
    "nll_tokens",
    "chosen_logps",
    "rejected_logps",
    "log_odds",
    "log_odds_ratio",
    "accuracy",
    "tokens",
    "aux_loss",
)


def pair_table(logps: PairLogps, result: ORPOLoss) -> Tensor:
    """One row of `COLUMNS` for each pair, shape (pairs, columns), without gradient."""
    chosen, rejected = logps.chosen_logps, logps.rejected_logps
    aux = torch.zeros_like(chosen) if logps.aux_loss is None else logps.aux_loss.expand_as(chosen)
    columns = {
        "nll_sum": logps.nll_sum,
        "nll_tokens": logps.nll_tokens,
        "chosen_logps": chosen,
        "rejected_logps": rejected,
        "log_odds": result.log_odds,
        "log_odds_ratio": result.log_odds_ratio,
        "accuracy": chosen > rejected,
        "tokens": logps.nll_tokens + logps.rejected_tokens,
        "aux_loss": aux,
    }
    return torch.stack([columns[name].detach().to(chosen.dtype) for name in COLUMNS], dim=1)


def summarise(
    sums: dict[str, float], pairs: float, *, alpha: float, beta: float
) -> dict[str, float]:
    """Metrics from the column sums over a number of pairs.

    Returns:
        nll_loss, log_odds_ratio, log_odds_chosen, rewards/*, logps/*, as TRL names them; and
        `aux_loss` for a mixture of experts.
    """
    scale = alpha * beta
    chosen, rejected = sums["chosen_logps"] / pairs, sums["rejected_logps"] / pairs
    metrics = {
        "nll_loss": sums["nll_sum"] / sums["nll_tokens"] if sums["nll_tokens"] else 0.0,
        "log_odds_ratio": sums["log_odds_ratio"] / pairs,
        "log_odds_chosen": sums["log_odds"] / pairs,
        "rewards/chosen": scale * chosen,
        "rewards/rejected": scale * rejected,
        "rewards/margins": scale * (chosen - rejected),
        "rewards/accuracies": sums["accuracy"] / pairs,
        "logps/chosen": chosen,
        "logps/rejected": rejected,
    }
    if sums["aux_loss"]:
        metrics["aux_loss"] = sums["aux_loss"] / pairs
    return metrics


@dataclass
class MetricSums:
    """Column sums since the last log, kept on the device: no synchronisation per step.

    Attributes:
        sums: (columns + 1,): the sums of `COLUMNS` and the number of pairs; None when empty.
    """

    sums: Tensor | None = None

    def add(self, table: Tensor) -> None:
        """Add the rows of `pair_table`."""
        rows = torch.cat([table.sum(0), table.new_full((1,), len(table))])
        self.sums = rows if self.sums is None else self.sums + rows

    def take(self) -> Tensor | None:
        """The sums so far; starts again from nothing."""
        sums, self.sums = self.sums, None
        return sums
