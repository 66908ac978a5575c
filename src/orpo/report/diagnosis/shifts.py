"""How far a curve went, measured against its own noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

from orpo.report.series import Curves, Series
from orpo.report.values import as_pair, as_percent

__all__ = ["FEWEST", "Shift", "ended_lower", "held_out", "shift", "told"]

FEWEST = 8
"""Logged steps without which a training curve says nothing."""


@dataclass(frozen=True)
class Shift:
    """From the start of a curve to its end.

    Attributes:
        first: Mean of the first quarter.
        last: Mean of the last quarter.
        error: Standard error of `last - first`, from the curvature of neighbouring points, which a
            slow trend does not widen. 0 for held-out curves: the same pairs are scored each time.
        points: Logged points.
        steps: First and last step.
    """

    first: float
    last: float
    error: float
    points: int
    steps: tuple[float, float]

    @property
    def change(self) -> float:
        """`last - first`."""
        return self.last - self.first

    @property
    def relative(self) -> float:
        """The change as a share of the start's size."""
        return self.change / max(abs(self.first), 1e-12)

    @property
    def threshold(self) -> float:
        """A change beyond it is none of chance: wider where few points tell the noise."""
        return 4 * (1 + 5 / self.points) * self.error

    @property
    def rose(self) -> bool:
        """Clearly."""
        return self.change > self.threshold

    @property
    def fell(self) -> bool:
        """Clearly."""
        return -self.change > self.threshold

    def within(self, bound: float) -> bool:
        """Whether the change is surely smaller than a bound, whatever its sign."""
        return abs(self.change) + 2 * (1 + 5 / self.points) * self.error < bound

    def at_most(self, bound: float) -> bool:
        """Whether any rise is surely smaller than a bound."""
        return self.change + 2 * (1 + 5 / self.points) * self.error < bound


def shift(series: Series | None) -> Shift | None:
    """The shift of a curve on training pairs; None with fewer than `FEWEST` points."""
    if series is None or len(series.points) < FEWEST:
        return None
    values, steps = list(series.points.values()), list(series.points)
    quarter = len(values) // 4
    bends = [
        (values[i - 1] - 2 * values[i] + values[i + 1]) ** 2 / 6 for i in range(1, len(values) - 1)
    ]
    noise = math.sqrt(fmean(bends))
    return Shift(
        fmean(values[:quarter]),
        fmean(values[-quarter:]),
        noise * math.sqrt(2 / quarter),
        len(values),
        (steps[0], steps[-1]),
    )


def held_out(curves: Curves, metric: str) -> Shift | None:
    """From the first to the last evaluation of the first evaluation set; None without two."""
    for series in curves.held_out.get(metric, []):
        values, steps = list(series.points.values()), list(series.points)
        if len(values) > 1:
            return Shift(values[0], values[-1], 0.0, len(values), (steps[0], steps[-1]))
    return None


def ended_lower(curves: Curves, metric: str) -> bool:
    """Whether a training curve ended below its first point: a run that broke at once did not."""
    series = curves.training.get(metric)
    found = shift(series)
    return (
        found is not None and series is not None and found.last < next(iter(series.points.values()))
    )


def told(name: str, found: Shift, *, share: bool = False) -> str:
    """The shift in words: "the loss 2.08 → 0.97 (steps 1 to 200, noise ±0.03)"."""
    first, last = as_pair(found.first, found.last)
    noise = as_pair(found.error, max(abs(found.first), abs(found.last)))[0]
    if share:
        first, last, noise = (
            as_percent(found.first),
            as_percent(found.last),
            as_percent(found.error),
        )
    where = f"steps {found.steps[0]:,.0f} to {found.steps[1]:,.0f}"
    where += f", noise ±{noise}" if found.error else ""
    return f"{name} {first} → {last} ({where})"
