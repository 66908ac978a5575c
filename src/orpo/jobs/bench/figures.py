"""From the steps of the sides to rates, ratios and memory."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orpo.jobs.bench.flops import ModelSize, useful_flops
from orpo.jobs.bench.processes import Step
from orpo.jobs.bench.rows import BenchRow

__all__ = ["Side", "against", "mean_lengths", "side_figures"]


@dataclass(frozen=True)
class Side:
    """What one side did in one cell.

    Attributes:
        facts: Its `ready` message.
        steps: Its steps, those of the warm-up included.
        memory: Its `done` message.
        rows: Its rows in order of use.
        batch_size: Pairs in a step.
        warmup: Leading steps that do not count.
    """

    facts: dict[str, Any]
    steps: list[Step]
    memory: dict[str, Any]
    rows: list[BenchRow]
    batch_size: int
    warmup: int

    @property
    def counted(self) -> list[Step]:
        """The steps after the warm-up."""
        return self.steps[self.warmup :]

    @property
    def batches(self) -> list[list[BenchRow]]:
        """The rows of each counted step."""
        size = self.batch_size
        starts = range(self.warmup * size, len(self.rows), size)
        return [self.rows[i : i + size] for i in starts]

    @property
    def token_rates(self) -> list[float]:
        """Tokens per second of each counted step: prompt + chosen + rejected, each once."""
        tokens = (sum(sum(row.lengths) for row in batch) for batch in self.batches)
        return [n / step.seconds for n, step in zip(tokens, self.counted, strict=True)]

    def flop_rates(self, size: ModelSize, *, lora: bool) -> list[float]:
        """Useful operations per second of each counted step."""
        flops = (sum(useful_flops(size, r.lengths, lora=lora) for r in b) for b in self.batches)
        return [n / step.seconds for n, step in zip(flops, self.counted, strict=True)]

    @property
    def seconds(self) -> float:
        """Seconds of all counted steps."""
        return sum(step.seconds for step in self.counted)


def side_figures(side: Side, size: ModelSize, matmul_rate: float, *, lora: bool) -> dict[str, Any]:
    """The figures of one side; rates are medians over the counted steps.

    Args:
        side: What it did.
        size: Of the model.
        matmul_rate: Operations per second of a large matrix product.
        lora: Whether only an adapter was trained.
    """
    pairs = side.batch_size * len(side.counted)
    peak, idle = side.memory["peak"], side.memory["idle"]
    rate = statistics.median(side.flop_rates(size, lora=lora))
    return {
        "engine": side.facts["engine"],
        "gradient_checkpointing": side.facts["gradient_checkpointing"],
        "pairs_per_second": statistics.median(side.batch_size / s.seconds for s in side.counted),
        "pairs_per_second_overall": pairs / side.seconds,
        "tokens_per_second": statistics.median(side.token_rates),
        "useful_flops_per_second": rate,
        "share_of_matmul_rate": rate / matmul_rate,
        "peak_bytes": peak,
        "idle_bytes": idle,
        "beyond_idle_bytes": peak - idle,
        "peak_without_loading": side.memory["exact"],
        "step_seconds": [step.seconds for step in side.steps],
        "between_steps_seconds": statistics.median(step.between for step in side.counted),
        "losses": [step.loss for step in side.steps],
        "notes": side.facts["notes"],
    }


def against(ours: Side, peer: Side) -> dict[str, Any]:
    """Our side beside a peer: speed above 1 and memory below 1 are in our favour.

    The ratio of a round is that of tokens per second, which is that of pairs per second where both
    had the same rows in it; a peer whose rows are grouped by length had others.
    """
    rounds = [a / b for a, b in zip(ours.token_rates, peer.token_rates, strict=True)]
    a, b = (side.memory["peak"] for side in (ours, peer))
    idle_a, idle_b = (side.memory["idle"] for side in (ours, peer))
    differing = (Counter(peer.facts["tokens"]) - Counter(ours.facts["tokens"])).total()
    return {
        "speed_ratio": {
            "median": statistics.median(rounds),
            "min": min(rounds),
            "max": max(rounds),
            "overall": peer.seconds / ours.seconds,
        },
        "peak_memory_ratio": a / b,
        "beyond_idle_memory_ratio": (a - idle_a) / (b - idle_b) if b > idle_b else None,
        "first_losses": [ours.steps[0].loss, peer.steps[0].loss],
        "first_loss_relative_difference": _difference(ours, peer),
        "same_tokens": differing == 0,
        "rows_with_other_tokens": differing,
    }


def mean_lengths(rows: Sequence[BenchRow]) -> dict[str, float]:
    """Mean tokens of prompt, chosen and rejected."""
    columns = zip(*(row.lengths for row in rows), strict=True)
    names = ("prompt", "chosen", "rejected")
    return {name: statistics.fmean(column) for name, column in zip(names, columns, strict=True)}


def _difference(ours: Side, peer: Side) -> float | None:
    """Relative difference of the first losses; None where the first rows differ."""
    a, b = ours.steps[0].loss, peer.steps[0].loss
    same = ours.rows[: ours.batch_size] == peer.rows[: peer.batch_size]
    if a is None or not b or not same:
        return None
    return abs(a - b) / abs(b)
