"""Differences between methods that were trained several times: over prompts and over seeds.

Two things were drawn: the held-out prompts and the seeds of the runs. An interval over prompts
(`orpo.evaluate.intervals`) and Student's interval over the seeds' means are put together by adding
the squares of their distances from the mean (MOVER: Zou and Donner, Statistics in Medicine 27,
2008). Both distances are whole ones, so the result is rather too wide than too narrow: few seeds
that agree cost little, few seeds that disagree make it as wide as it must be.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Sequence
from dataclasses import replace

from orpo.evaluate.intervals import Interval, is_share, mean_interval, paired_interval

__all__ = ["change_interval", "level_interval"]

Runs = Sequence[Sequence[float]]
"""One row for each seed; in it one value for each held-out pair, in the same order."""


def level_interval(runs: Runs, prompts: Sequence[Hashable], *, level: float = 0.95) -> Interval:
    """The mean over seeds and pairs, with its interval.

    Args:
        runs: Values of one method.
        prompts: The prompt of each pair; pairs of one prompt are not independent.
        level: How often such intervals shall contain the truth.

    Raises:
        ValueError: There is no run or no pair, a value is not finite, or lengths differ.
    """
    flat, clusters = _flat(runs, prompts)
    over_prompts = mean_interval(flat, clusters, level=level)
    means = [statistics.fmean(run) for run in runs]
    return _widened(over_prompts, means, (0.0, 1.0) if is_share(flat) else None)


def change_interval(
    before: Runs, after: Runs, prompts: Sequence[Hashable], *, level: float = 0.95
) -> Interval:
    """The mean of `after - before` on the same pairs and seeds, with its interval.

    Args:
        before: Values of one method; a single run, such as the base model's, stands beside every
            seed of the other.
        after: Values of the other.
        prompts: As in `level_interval`.
        level: As in `level_interval`.

    Raises:
        ValueError: As `level_interval`, or the numbers of seeds differ.
    """
    count = max(len(before), len(after))
    before, after = (list(runs) * count if len(runs) == 1 else runs for runs in (before, after))
    if len(before) != len(after):
        raise ValueError(f"{len(before)} runs before and {len(after)} after")
    first, clusters = _flat(before, prompts)
    second, _ = _flat(after, prompts)
    over_prompts = paired_interval(first, second, clusters, level=level)
    means = [statistics.fmean(b) - statistics.fmean(a) for a, b in zip(before, after, strict=True)]
    both = is_share(first) and is_share(second)
    return _widened(over_prompts, means, (-1.0, 1.0) if both else None)


def _flat(runs: Runs, prompts: Sequence[Hashable]) -> tuple[list[float], list[Hashable]]:
    for run in runs:
        if len(run) != len(prompts):
            raise ValueError(f"{len(run)} values for {len(prompts)} pairs")
    return [value for run in runs for value in run], [*prompts] * len(runs)


def _widened(found: Interval, means: Sequence[float], ends: tuple[float, float] | None) -> Interval:
    """An interval over prompts, with what the seeds add to it."""
    if len(means) < 2:
        return found
    over_seeds = mean_interval(means, level=found.level, share=False)
    below, above = (
        math.hypot(own - found.value, seeds - over_seeds.value)
        for own, seeds in ((found.low, over_seeds.low), (found.high, over_seeds.high))
    )
    least, most = ends or (-math.inf, math.inf)
    return replace(found, low=max(found.value - below, least), high=min(found.value + above, most))
