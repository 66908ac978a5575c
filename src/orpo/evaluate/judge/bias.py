"""What a judge goes by besides quality: the place of an answer, and its length."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from orpo.evaluate.intervals import Interval, mean_interval

__all__ = ["auc_interval", "ranks", "share_interval", "spearman_interval"]


def share_interval(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None
) -> Interval | None:
    """The mean of shares with its interval; None of nothing."""
    return mean_interval(values, clusters, share=True) if values else None


def auc_interval(
    positives: Sequence[float], negatives: Sequence[float], *, level: float = 0.95
) -> Interval | None:
    """How often a positive is above a negative, a tie counting half; None if either is missing.

    Args:
        positives: Such as how much longer the answers are that won.
        negatives: The same of those that lost.
        level: How often such intervals shall contain the truth.

    Returns:
        The area under the curve with Newcombe's score-like interval on Hanley and McNeil's
        variance (Statistics in Medicine 25, 2006, method 5), which holds near 0 and 1 too.
    """
    wins, losses = len(positives), len(negatives)
    if not wins or not losses:
        return None
    placed = ranks([*positives, *negatives])[:wins].sum()
    value = float((placed - wins * (wins + 1) / 2) / (wins * losses))
    z = NormalDist().inv_cdf(0.5 + level / 2)

    def outside(theta: float) -> bool:
        half = (wins + losses) / 2 - 1
        spread = theta * (1 - theta) / (wins * losses)
        spread *= 1 + half * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return abs(value - theta) > z * math.sqrt(spread)

    ends = (_border(outside, 0.0, value), _border(outside, 1.0, value))
    return Interval(value, *ends, n=wins + losses, clusters=wins + losses, level=level)


def spearman_interval(
    first: Sequence[float], second: Sequence[float], *, level: float = 0.95
) -> Interval | None:
    """Spearman's rank correlation with its interval; None where one of them does not vary.

    The interval is Fisher's with the standard error of Bonett and Wright (Psychometrika 65, 2000).
    """
    count = len(first)
    if count < 4 or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    value = float(np.corrcoef(ranks(first), ranks(second))[0, 1])
    error = math.sqrt((1 + value * value / 2) / (count - 3))
    reach = NormalDist().inv_cdf(0.5 + level / 2) * error
    middle = math.atanh(min(max(value, -1 + 1e-12), 1 - 1e-12))
    ends = (math.tanh(middle - reach), math.tanh(middle + reach))
    return Interval(value, *ends, n=count, clusters=count, level=level)


def ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Ranks from 1 on; equal values share the mean of theirs."""
    _, where, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle: NDArray[np.float64] = (last - counts + 1 + last) / 2
    return middle[where]


def _border(outside: Callable[[float], bool], far: float, near: float) -> float:
    """Where being outside begins between a point that may be and one that is not."""
    if not outside(far):
        return far
    for _ in range(60):
        middle = (far + near) / 2
        far, near = (middle, near) if outside(middle) else (far, middle)
    return near
