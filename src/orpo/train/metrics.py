"""The numbers of a run, under TRL's names, exact over batches and ranks.

Every pair contributes one row of `COLUMNS`; sums of rows are what is accumulated, on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orpo.objective import ORPOLoss, PairLogps
from orpo.train.step_loss import StepLoss

__all__ = ["COLUMNS", "MetricSums", "PairTable", "pair_table", "summarise"]

COLUMNS = (
    "nll_sum",
    "nll_tokens",
    "chosen_logps",
    "rejected_logps",
    "log_odds",
    "log_odds_ratio",
    "accuracy",
    "has_rejected",
    "tokens",
    "aux_loss",
    "weighted_nll",
    "weighted_log_odds_ratio",
)
_OF_PAIRS = ("chosen_logps", "rejected_logps", "log_odds", "log_odds_ratio", "accuracy")
"""Columns that compare two answers: their sums leave out rows without rejected answer."""


def pair_table(logps: PairLogps, result: ORPOLoss, aux_loss: Tensor | None = None) -> Tensor:
    """One row of `COLUMNS` for each pair, shape (pairs, columns), without gradient."""
    chosen, rejected = logps.chosen_logps, logps.rejected_logps
    aux = torch.zeros_like(chosen) if aux_loss is None else aux_loss.expand_as(chosen)
    weight = torch.ones_like(chosen) if logps.weight is None else logps.weight
    both = logps.has_rejected
    columns = {
        "nll_sum": logps.nll_sum,
        "nll_tokens": logps.nll_tokens,
        "chosen_logps": chosen,
        "rejected_logps": rejected,
        "log_odds": result.log_odds,
        "log_odds_ratio": result.log_odds_ratio,
        "accuracy": chosen > rejected,
        "has_rejected": both,
        "tokens": logps.nll_tokens + logps.rejected_tokens,
        "aux_loss": aux,
        "weighted_nll": weight * logps.nll_sum,
        "weighted_log_odds_ratio": weight * result.log_odds_ratio * both,
    }
    return torch.stack([columns[name].detach().to(chosen.dtype) for name in COLUMNS], dim=1)


def column_sums(table: Tensor) -> Tensor:
    """(columns,) from (pairs, columns): the sums that `summarise` takes."""
    both = table[:, COLUMNS.index("has_rejected"), None]
    columns = [COLUMNS.index(name) for name in _OF_PAIRS]  # neighbours: a slice stays on the device
    of_pairs = slice(columns[0], columns[-1] + 1)
    before, after = table[:, : of_pairs.start], table[:, of_pairs.stop :]
    return torch.cat([before, table[:, of_pairs] * both, after], dim=1).sum(0)


def summarise(sums: dict[str, float], rows: float, parts: StepLoss) -> dict[str, float]:
    """Metrics from the column sums over a number of rows.

    Returns:
        nll_loss, log_odds_ratio, log_odds_chosen, rewards/*, logps/*, as TRL names them, over the
        rows with both answers; and `aux_loss` for a mixture of experts.
    """
    scale, pairs = parts.alpha * parts.beta, sums["has_rejected"] or 1.0
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
        metrics["aux_loss"] = sums["aux_loss"] / rows
    return metrics


@dataclass(frozen=True)
class PairTable:
    """What an evaluation found, pair by pair.

    Attributes:
        columns: Name out of `COLUMNS` -> float64 array of shape (pairs,).
        rows: Index of each pair's row in the data set, shape (pairs,).
    """

    columns: dict[str, Any]
    rows: Any

    @classmethod
    def gathered(cls, tables: Any, rows: Any, *, once: bool = False) -> PairTable:
        """From the gathered rows of `pair_table`, an array or a list of them.

        Args:
            tables: Shape (pairs, columns).
            rows: Indices of the rows, shape (pairs,).
            once: Keep each row once: accelerate fills the last batch of a stream with repeated
                rows so that all ranks have equally many, and cannot tell them apart afterwards.
        """
        table = _joined(tables).astype(np.float64)
        indices = _joined(rows)
        if once:
            first = np.sort(np.unique(indices, return_index=True)[1])
            table, indices = table[first], indices[first]
        return cls({name: table[:, i] for i, name in enumerate(COLUMNS)}, indices)

    @property
    def answers(self) -> tuple[Any, Any]:
        """Length-averaged log-probabilities of the chosen and the rejected answers, NaN if none."""
        rejected = np.where(self.columns["has_rejected"], self.columns["rejected_logps"], np.nan)
        return self.columns["chosen_logps"], rejected

    def metrics(self, parts: StepLoss) -> dict[str, float]:
        """The metrics of all pairs, and their loss as if they were one optimizer step."""
        table = torch.tensor(np.stack([self.columns[name] for name in COLUMNS], axis=1))
        sums = dict(zip(COLUMNS, column_sums(table).tolist(), strict=True))
        metrics = summarise(sums, len(self.rows), parts)
        metrics["loss"] = (
            sums["weighted_nll"] / (sums["nll_tokens"] or 1.0)
            - parts.alpha * sums["weighted_log_odds_ratio"] / (sums["has_rejected"] or 1.0)
            + parts.aux_coef * metrics.get("aux_loss", 0.0)
        )
        return metrics


def _joined(parts: Any) -> Any:
    return np.concatenate(parts) if isinstance(parts, list) else np.asarray(parts)


@dataclass
class MetricSums:
    """Column sums since the last log, kept on the device: no synchronisation per step.

    Attributes:
        sums: (columns + 1,): the sums of `COLUMNS` and the number of rows; None when empty.
    """

    sums: Tensor | None = None

    def add(self, table: Tensor) -> None:
        """Add the rows of `pair_table`."""
        rows = torch.cat([column_sums(table), table.new_full((1,), len(table))])
        self.sums = rows if self.sums is None else self.sums + rows

    def take(self) -> Tensor | None:
        """The sums so far; starts again from nothing."""
        sums, self.sums = self.sums, None
        return sums
