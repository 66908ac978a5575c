"""The numbers of a run, under TRL's names, exact over batches and ranks.

Every pair contributes one row of `COLUMNS`; sums of rows are what is accumulated, on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orpo.config import ORPOConfig
from orpo.errors import CheckpointError
from orpo.objective.types import PairLogps
from orpo.train.checkpoints import Progress
from orpo.train.step_loss import StepLoss

_OF_PAIRS = ("chosen_logps", "rejected_logps", "log_odds", "log_odds_ratio", "accuracy")
"""Columns that compare two answers: their sums leave out rows without rejected answer."""
COLUMNS = (
    *("nll_sum", "nll_tokens", *_OF_PAIRS, "has_rejected", "tokens", "aux_loss"),
    *("weighted_nll", "weighted_log_odds_ratio"),
)
_OWN_COLUMNS: dict[str, tuple[str, ...]] = {
    "orpo": (),
    "sft": ("row_logps",),
    "dpo": (
        *("chosen_rewards", "rejected_rewards", "reward_accuracy"),
        *("chosen_sum", "rejected_sum", "weighted_log_sigmoid"),
    ),
}


def columns_of(objective: str) -> tuple[str, ...]:
    """The columns of an objective's table: `COLUMNS`, and its own behind them."""
    return (*COLUMNS, *_OWN_COLUMNS[objective])


def pair_table(logps: PairLogps, parts: StepLoss, aux_loss: Tensor | None = None) -> Tensor:
    """One row of `columns_of` for each pair, shape (pairs, columns), without gradient."""
    chosen, rejected = logps.chosen_logps, logps.rejected_logps
    result, both = parts.orpo(logps), logps.has_rejected
    weight = torch.ones_like(logps.chosen_sum) if logps.weight is None else logps.weight
    aux = torch.zeros_like(chosen) if aux_loss is None else aux_loss.expand_as(chosen)
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
    if parts.objective == "sft":
        columns["row_logps"] = chosen
    elif parts.objective == "dpo":
        dpo = parts.dpo(logps)
        columns |= {
            "chosen_rewards": dpo.chosen_rewards * both,
            "rejected_rewards": dpo.rejected_rewards * both,
            "reward_accuracy": (dpo.chosen_rewards > dpo.rejected_rewards) & both,
            "chosen_sum": logps.chosen_sum * both,
            "rejected_sum": logps.rejected_sum * both,
            "weighted_log_sigmoid": weight * dpo.log_sigmoid * both,
        }
    names = columns_of(parts.objective)
    return torch.stack([columns[name].detach().to(chosen.dtype) for name in names], dim=1)


def column_sums(table: Tensor) -> Tensor:
    """(columns,) from (pairs, columns): the sums that `summarise` takes."""
    both = table[:, COLUMNS.index("has_rejected"), None]
    columns = [COLUMNS.index(name) for name in _OF_PAIRS]  # neighbours: a slice stays on the device
    of_pairs = slice(columns[0], columns[-1] + 1)
    before, after = table[:, : of_pairs.start], table[:, of_pairs.stop :]
    return torch.cat([before, table[:, of_pairs] * both, after], dim=1).sum(0)


@dataclass(frozen=True)
class PairTable:
    """What an evaluation found, pair by pair."""

    columns: dict[str, Any]
    rows: Any

    @classmethod
    def gathered(
        cls, tables: Any, rows: Any, objective: str = "orpo", *, once: bool = False
    ) -> PairTable:
        """From the gathered rows of `pair_table`, an array or a list of them."""
        table, indices = (
            np.concatenate(parts) if isinstance(parts, list) else np.asarray(parts)
            for parts in (tables, rows)
        )
        table = table.astype(np.float64)
        if once:
            first = np.sort(np.unique(indices, return_index=True)[1])
            table, indices = table[first], indices[first]
        return cls({n: table[:, i] for i, n in enumerate(columns_of(objective))}, indices)

    @property
    def answers(self) -> tuple[Any, Any]:
        """Length-averaged log-probabilities of the chosen and the rejected answers, NaN if none."""
        rejected = np.where(self.columns["has_rejected"], self.columns["rejected_logps"], np.nan)
        return self.columns["chosen_logps"], rejected

    def metrics(self, parts: StepLoss) -> dict[str, float]:
        """The metrics of all pairs, and their loss as if they were one optimizer step."""
        table = torch.tensor(np.stack([*self.columns.values()], axis=1))
        sums = dict(zip(self.columns, column_sums(table).tolist(), strict=True))
        metrics = summarise(sums, len(self.rows), parts)
        loss = _loss(sums, parts) + parts.aux_coef * metrics.get("aux_loss", 0.0)
        return {**metrics, "nll_loss": _mean_nll(sums), "loss": loss}


@dataclass
class MetricSums:
    """Column sums since the last log, kept on the device: no synchronisation per step."""

    sums: Tensor | None = None

    def add(self, table: Tensor) -> None:
        """Add the rows of `pair_table`."""
        rows = torch.cat([column_sums(table), table.new_full((1,), len(table))])
        self.sums = rows if self.sums is None else self.sums + rows

    def kept(self) -> dict[str, Any]:
        """What a checkpoint holds of them: `metric_sums` and `metric_dtype` of `Progress`."""
        dtype = torch.float32 if self.sums is None else self.sums.dtype
        return {
            "metric_sums": [None if self.sums is None else self.sums.tolist()],
            "metric_dtype": str(dtype).removeprefix("torch."),
        }

    def take_up(self, progress: Progress, args: ORPOConfig) -> None:
        """Go on from what a checkpoint holds of every rank."""
        rank, sums = args.process_index, progress.metric_sums
        if len(sums) != args.world_size:  # the first rank takes those of all
            there = [one for one in sums if one is not None]
            sums = [[sum(column) for column in zip(*there, strict=True)] or None]
        own = sums[rank] if rank < len(sums) else None
        if own is not None and len(own) != len(columns_of(args.objective)) + 1:
            raise CheckpointError("progress.json holds sums of other metrics", where="metric_sums")
        dtype = getattr(torch, progress.metric_dtype)
        self.sums = None if own is None else torch.tensor(own, dtype=dtype, device=args.device)

    def take(self) -> Tensor | None:
        """The sums so far; starts again from nothing."""
        sums, self.sums = self.sums, None
        return sums


Sums = Mapping[str, float]


def summarise(sums: Sums, rows: float, parts: StepLoss) -> dict[str, float]:
    """The objective's metrics from the column sums over a number of rows."""
    means = {name: value / (sums["has_rejected"] or 1.0) for name, value in sums.items()}
    compared = {
        "log_odds_chosen": means["log_odds"],
        "preference_accuracy": means["accuracy"],
        "logps/chosen": means["chosen_logps"],
        "logps/rejected": means["rejected_logps"],
    }
    if not sums["has_rejected"]:  # there is nothing to compare
        compared = {}
    if parts.objective == "orpo":
        metrics = _orpo(sums, means, parts)
    elif parts.objective == "sft":
        compared = compared or {"logps/chosen": sums["row_logps"] / rows}
        metrics = {"nll_loss": _mean_nll(sums), **compared}
    else:
        chosen, rejected = means["chosen_rewards"], means["rejected_rewards"]
        rewards = {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": means["reward_accuracy"],
            "logps_sum/chosen": means["chosen_sum"],
            "logps_sum/rejected": means["rejected_sum"],
        }
        metrics = {**rewards, **compared} if compared else {}
    if sums["aux_loss"]:
        metrics["aux_loss"] = sums["aux_loss"] / rows
    return metrics


def _orpo(sums: Sums, means: Sums, parts: StepLoss) -> dict[str, float]:
    scale, chosen, rejected = (
        parts.alpha * parts.beta,
        means["chosen_logps"],
        means["rejected_logps"],
    )
    return {
        "nll_loss": _mean_nll(sums),
        "log_odds_ratio": means["log_odds_ratio"],
        "log_odds_chosen": means["log_odds"],
        "rewards/chosen": scale * chosen,
        "rewards/rejected": scale * rejected,
        "rewards/margins": scale * (chosen - rejected),
        "rewards/accuracies": means["accuracy"],
        "logps/chosen": chosen,
        "logps/rejected": rejected,
    }


def _mean_nll(sums: Sums) -> float:
    """The NLL per token of the chosen texts."""
    return sums["nll_sum"] / sums["nll_tokens"] if sums["nll_tokens"] else 0.0


def _loss(sums: Sums, parts: StepLoss) -> float:
    """The loss of all rows as if they were one optimizer step, without the router's."""
    pairs = sums["has_rejected"] or 1.0
    if parts.objective == "dpo":
        return -sums["weighted_log_sigmoid"] / pairs
    nll = sums["weighted_nll"] / (sums["nll_tokens"] or 1.0)
    if parts.objective == "sft":
        return nll
    return nll - parts.alpha * sums["weighted_log_odds_ratio"] / pairs
