"""The curves of metrics.jsonl as numbers: which metric, on which data, step by step."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from orpo.report.values import count, mapping, number, records
from orpo.runs.files import Run

METRICS = (
    "loss",
    "nll_loss",
    "log_odds_chosen",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
    "learning_rate",
    "grad_norm",
)
"""The metrics that are drawn."""

_LARGEST = 1e100  # beyond it squares overflow, and nothing is left to see on an axis
_LAST_STEP = 1e15  # beyond it floats are no longer counts
_SMOOTH_FROM = 60  # points; a shorter curve is read as it is
_PREFIX = "eval_"


@dataclass(frozen=True)
class Trend:
    """Where a curve starts and ends: means over `window` points, and their standard error.

    It "held" when the change is within its own noise, as neighbouring points tell it.
    """

    first: float
    last: float
    window: int
    noise: float
    direction: str

    def clearly_above(self, level: float) -> bool:
        """Whether the end is above a level by more than its own noise."""
        return self.last - level > 2 * self.noise


@dataclass(frozen=True)
class Series:
    """One metric on an evaluation set ("" where there is one only), or on training pairs (None).

    `broken` are the steps at which the value was NaN, infinite or absurdly large.
    """

    metric: str
    source: str | None
    points: dict[float, float] = field(default_factory=dict)
    broken: tuple[float, ...] = ()

    @property
    def last(self) -> float | None:
        """The last value."""
        return list(self.points.values())[-1] if self.points else None

    @property
    def trend(self) -> Trend | None:
        """How the curve goes from its start to its end; None with fewer than two points."""
        values = list(self.points.values())
        if len(values) < 2:
            return None
        window = max(1, len(values) // 10)
        first, last = statistics.fmean(values[:window]), statistics.fmean(values[-window:])
        noise = _point_noise(values) / math.sqrt(window)
        threshold = max(2 * math.sqrt(2) * noise, 1e-3 * max(abs(first), abs(last)))
        direction = "rose" if last > first else "fell"
        if abs(last - first) <= threshold:
            direction = "held"
        return Trend(first, last, window, noise, direction)


@dataclass(frozen=True)
class Curves:
    """Everything that can be drawn of a run, by metric; held-out curves by evaluation set."""

    training: dict[str, Series]
    held_out: dict[str, list[Series]]

    @property
    def every(self) -> list[Series]:
        """All curves, training first."""
        return [*self.training.values(), *(one for sets in self.held_out.values() for one in sets)]

    def all_of(self, metric: str) -> list[Series]:
        """The curves of a metric, training first."""
        own = self.training.get(metric)
        return ([own] if own else []) + self.held_out.get(metric, [])


def read_curves(lines: Iterable[object]) -> Curves:
    """Sort the logged numbers into curves; where a step is logged twice, the later line counts."""
    found: dict[tuple[str, str | None], dict[float, float]] = {}
    for line in lines:
        entries = mapping(line)
        step = number(entries.get("step"))
        if step is None or not abs(step) < _LAST_STEP:
            continue
        for key, value in entries.items():
            place, amount = _place(key), number(value)
            if place is not None and amount is not None:
                found.setdefault(place, {})[step] = amount
    series = [_series(metric, source, points) for (metric, source), points in found.items()]
    held_out: dict[str, list[Series]] = {}
    for one in sorted(series, key=lambda s: s.source or ""):
        if one.source is not None:
            held_out.setdefault(one.metric, []).append(one)
    return Curves({s.metric: s for s in series if s.source is None}, held_out)


def _place(key: str) -> tuple[str, str | None] | None:
    """(metric, source) of a logged name: loss, eval_loss, eval_NAME_loss."""
    if key in METRICS:
        return key, None
    if not key.startswith(_PREFIX):
        return None
    rest = key.removeprefix(_PREFIX)
    for metric in sorted(METRICS, key=len, reverse=True):  # nll_loss before loss
        if rest == metric:
            return metric, ""
        if rest.endswith(f"_{metric}"):
            return metric, rest.removesuffix(f"_{metric}")
    return None


def _series(metric: str, source: str | None, found: dict[float, float]) -> Series:
    usable = {step: value for step, value in sorted(found.items()) if abs(value) < _LARGEST}
    return Series(
        metric, source, usable, tuple(step for step in sorted(found) if step not in usable)
    )


def _point_noise(values: list[float]) -> float:
    """Standard deviation of a point around a smooth curve, from differences of neighbours."""
    differences = [b - a for a, b in pairwise(values)]
    return statistics.pstdev(differences) / math.sqrt(2)


def smoothed(series: Series) -> Series | None:
    """Running mean over a thirtieth of the curve; None for a curve that is short enough."""
    values = list(series.points.values())
    if len(values) < _SMOOTH_FROM:
        return None
    half = len(values) // 60
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    means = {}
    for i, step in enumerate(series.points):
        low, high = max(0, i - half), min(len(values), i + half + 1)
        means[step] = (sums[high] - sums[low]) / (high - low)
    return Series(series.metric, series.source, means)


def thinned(points: dict[float, float], limit: int = 400) -> list[tuple[float, float]]:
    """At most `limit` points, of which none is invented: each stretch keeps its extremes.

    A spike that lasts one step stays in the picture, and so do the first and the last point.
    """
    pairs = list(points.items())
    if len(pairs) <= limit:
        return pairs
    stretches = (limit - 2) // 2
    inner = pairs[1:-1]
    kept: list[tuple[float, float]] = [pairs[0]]
    for i in range(stretches):
        part = inner[i * len(inner) // stretches : (i + 1) * len(inner) // stretches]
        extremes = {min(part, key=_value), max(part, key=_value)}
        kept += sorted(extremes)
    return [*kept, pairs[-1]]


def _value(pair: tuple[float, float]) -> Any:
    return pair[1]


@dataclass(frozen=True)
class Progress:
    """How far a run is: the last logged step, of how many, and whether it came to its end."""

    step: int | None
    planned: int | None
    finished: bool


def progress(run: Run) -> Progress:
    """How far the run is, from its log: the trainer ends it with a line of totals."""
    lines = records(run.metrics)
    steps = [step for line in lines if (step := count(line.get("step"))) is not None]
    totals = [i for i, line in enumerate(lines) if "train_runtime" in line]
    last_trained = max((i for i, line in enumerate(lines) if "loss" in line), default=-1)
    finished = bool(totals) and totals[-1] > last_trained
    evaluated = bool(mapping(mapping(run.evaluation).get("after")))
    planned = count(run.recipe.get("max_steps")) or None
    return Progress(max(steps, default=None), planned, finished or evaluated)
