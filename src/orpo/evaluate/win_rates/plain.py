"""The win rate as it is judged."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from orpo.errors import DataError
from orpo.evaluate.intervals import Interval, mean_interval
from orpo.evaluate.win_rates.types import Floats, WinRate, preferences

__all__ = ["in_percent", "standard_error", "win_rate"]


def win_rate(values: Iterable[float | None], clusters: Sequence[Hashable] | None = None) -> WinRate:
    """The mean preference in percent, with its standard error and interval.

    Args:
        values: 1 prefers the baseline, 2 the model, 1.5 is a draw, anything between counts as it
            stands; None or NaN is no verdict, counted and left out.
        clusters: The prompt of each; each its own if absent.

    Raises:
        DataError: A value is none of these, or there is no verdict at all.
    """
    found = preferences(values)
    judged = ~np.isnan(found)
    kept = found[judged]
    if not len(kept):
        raise DataError(
            f"none of {len(found)} rows has a preference", fix="See what the judge answered."
        )
    groups = None if clusters is None else [c for c, j in zip(clusters, judged, strict=True) if j]
    wins, losses = int((kept > 0.5).sum()), int((kept < 0.5).sum())
    draws = len(kept) - wins - losses
    return WinRate(
        win_rate=100 * float(kept.mean()),
        standard_error=100 * standard_error(kept),
        n=len(kept),
        n_wins=wins,
        n_losses=losses,
        n_draws=draws,
        discrete_win_rate=100 * (wins + draws / 2) / len(kept),
        unjudged=int((~judged).sum()),
        interval=in_percent(mean_interval([float(v) for v in kept], groups, share=True)),
    )


def standard_error(values: Floats) -> float:
    """Of the mean: the deviation with n - 1, over the root of n; 0 for a single value."""
    return float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0


def in_percent(share: Interval) -> Interval:
    """An interval of a share as percent, its ends within 0 and 100."""
    low, high = (min(max(100 * end, 0.0), 100.0) for end in (share.low, share.high))
    return Interval(100 * share.value, low, high, share.n, share.clusters, share.level)
