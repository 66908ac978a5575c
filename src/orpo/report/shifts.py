"""How far a curve went, measured against its own noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean, median

from orpo.report.series import Curves, Series
from orpo.report.values import as_pair, as_percent

FEWEST = 8
"""Logged steps without which a training curve says nothing."""
_HISTORY = 20


@dataclass(frozen=True)
class Shift:
    """From the start of a curve to its end: means of its first and of its last quarter.

    `error` is the standard error of their difference, from the curvature of neighbouring points,
    which a slow trend does not widen. 0 for held-out curves: the same pairs are scored each time.
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


def loss_spikes(series: Series | None) -> list[float]:
    """The steps at which the loss stands far above those before it.

    As the guard does while training: above the median of the twenty before it by many times their
    spread (the median absolute deviation), by 30 % and by 0.1.
    """
    steps, values = (list(series.points), list(series.points.values())) if series else ([], [])
    found = []
    for i in range(5, len(values)):
        earlier = values[max(0, i - _HISTORY) : i]
        middle = median(earlier)
        spread = 1.4826 * median(abs(value - middle) for value in earlier)
        rise = max(7 * (1 + 5 / len(earlier)) * spread, 0.3 * abs(middle), 0.1)
        if values[i] - middle > rise:
            found.append(steps[i])
    return found


@dataclass(frozen=True)
class Observed:
    """Everything that the rules look at.

    `halfway` says that half of the planned steps are done; `lengths` are characters of the sample
    answers before, after, and of the preferred one (0 if unknown); `events` are (step, kind).
    """

    curves: Curves
    objective: str = "orpo"
    alpha: float | None = None
    learning_rate: float | None = None
    halfway: bool = True
    lengths: list[tuple[int, int, int]] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)

    def training(self, metric: str) -> Shift | None:
        """The shift of a curve on training pairs."""
        return shift(self.curves.training.get(metric))

    def pair(self, one: str, other: str) -> tuple[Shift | None, Shift | None]:
        """Both on held-out pairs where they were scored twice, else both on training pairs."""
        tested = held_out(self.curves, one), held_out(self.curves, other)
        return tested if None not in tested else (self.training(one), self.training(other))

    def same(self, metric: str, like: Shift) -> Shift | None:
        """Another metric on the same pairs."""
        return self.training(metric) if like.error else held_out(self.curves, metric)
