"""The curves of metrics.jsonl as numbers, and how far each went beside its own noise."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from operator import itemgetter
from statistics import fmean, median, pstdev

from orpo.quantities import as_pair, as_percent, number
from orpo.report.values import count, mapping, records, text_of
from orpo.runs.files import Run

METRICS = (
    *("loss", "nll_loss", "log_odds_chosen", "rewards/accuracies", "logps/chosen"),
    *("logps/rejected", "learning_rate", "grad_norm"),
)
"""The metrics that are drawn."""
FEWEST = 8
"""Logged steps without which a training curve says nothing."""
_LOGGED = re.compile(rf"(?:eval_(?:(.*?)_)??)?({'|'.join(METRICS)})", re.DOTALL)
_LARGEST = 1e100  # beyond it squares overflow, and nothing is left to see on an axis
_LAST_STEP = 1e15  # beyond it floats are no longer counts
_SMOOTH_FROM = 60  # points; a shorter curve is read as it is
_HISTORY = 20


@dataclass(frozen=True)
class Trend:
    """Where a curve starts and ends: means over `window` points, and their standard error."""

    first: float
    last: float
    window: int
    noise: float
    direction: str  # "rose", "fell", or "held" where the change is within the curve's own noise

    def clearly_above(self, level: float) -> bool:
        """Whether the end is above a level by more than its own noise."""
        return self.last - level > 2 * self.noise


@dataclass(frozen=True)
class Series:
    """One metric on an evaluation set ("" where there is one only), or on training pairs (None)."""

    metric: str
    source: str | None
    points: dict[float, float] = field(default_factory=dict)
    broken: tuple[float, ...] = ()  # steps at which it was NaN, infinite or absurdly large

    @property
    def values(self) -> list[float]:
        """Of all points."""
        return list(self.points.values())

    @property
    def last(self) -> float | None:
        """The last value."""
        return self.values[-1] if self.points else None

    @property
    def trend(self) -> Trend | None:
        """How the curve goes from its start to its end; None with fewer than two points."""
        values = self.values
        if len(values) < 2:
            return None
        window = max(1, len(values) // 10)
        first, last = fmean(values[:window]), fmean(values[-window:])
        # A point's deviation from a smooth curve, from differences of neighbours.
        noise = pstdev([b - a for a, b in pairwise(values)]) / math.sqrt(2) / math.sqrt(window)
        held = abs(last - first) <= max(2 * math.sqrt(2) * noise, 1e-3 * max(abs(first), abs(last)))
        direction = "held" if held else "rose" if last > first else "fell"
        return Trend(first, last, window, noise, direction)

    def part(self, points: Iterable[tuple[float, float]]) -> Series:
        """The same curve with some of its points, or others in their place."""
        return Series(self.metric, self.source, dict(points))


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
    for line in map(mapping, lines):
        step = number(line.get("step"))
        if step is None or not abs(step) < _LAST_STEP:
            continue
        for key, value in line.items():
            named, amount = _LOGGED.fullmatch(key), number(value)
            if named and amount is not None:
                source = (named[1] or "") if key.startswith("eval_") else None
                found.setdefault((named[2], source), {})[step] = amount
    training, held_out = dict[str, Series](), dict[str, list[Series]]()
    for (metric, source), logged in sorted(found.items(), key=lambda item: item[0][1] or ""):
        usable = {step: value for step, value in sorted(logged.items()) if abs(value) < _LARGEST}
        one = Series(metric, source, usable, tuple(s for s in sorted(logged) if s not in usable))
        if source is None:
            training[metric] = one
        else:
            held_out.setdefault(metric, []).append(one)
    return Curves(training, held_out)


def smoothed(series: Series) -> Series | None:
    """Running mean over a thirtieth of the curve; None for a curve that is short enough."""
    values = series.values
    if len(values) < _SMOOTH_FROM:
        return None
    half, sums = len(values) // 60, list(accumulate(values, initial=0.0))
    spans = [(max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values))]
    means = [(sums[high] - sums[low]) / (high - low) for low, high in spans]
    return series.part(zip(series.points, means, strict=True))


def thinned(points: dict[float, float], limit: int = 400) -> list[tuple[float, float]]:
    """At most `limit` points, of which none is invented: each stretch keeps its extremes.

    A spike that lasts one step stays in the picture, and so do the first and the last point.
    """
    pairs, stretches = list(points.items()), (limit - 2) // 2
    if len(pairs) <= limit:
        return pairs
    inner, kept = pairs[1:-1], [pairs[0]]
    for i in range(stretches):
        part = inner[i * len(inner) // stretches : (i + 1) * len(inner) // stretches]
        kept += sorted({min(part, key=itemgetter(1)), max(part, key=itemgetter(1))})
    return [*kept, pairs[-1]]


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
    ends = {
        kind: i
        for i, line in enumerate(lines)
        for kind in ("train_runtime", "loss")
        if kind in line
    }
    finished = ends.get("train_runtime", -1) > ends.get("loss", -1)
    evaluated = bool(mapping(mapping(run.evaluation).get("after")))
    planned = count(run.recipe.get("max_steps")) or None
    return Progress(max(steps, default=None), planned, finished or evaluated)


# How far a curve went, for the diagnosis


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

    def at_most(self, bound: float, *, whatever_sign: bool = False) -> bool:
        """Whether any rise, or any change, is surely smaller than a bound."""
        change = abs(self.change) if whatever_sign else self.change
        return change + 2 * (1 + 5 / self.points) * self.error < bound

    def told(self, name: str, *, share: bool = False) -> str:
        """In words: "the loss 2.08 → 0.97 (steps 1 to 200, noise ±0.03)"."""
        first, last = as_pair(self.first, self.last)
        noise = as_pair(self.error, max(abs(self.first), abs(self.last)))[0]
        if share:
            first, last, noise = map(as_percent, (self.first, self.last, self.error))
        where = f"steps {self.steps[0]:,.0f} to {self.steps[1]:,.0f}"
        where += f", noise ±{noise}" if self.error else ""
        return f"{name} {first} → {last} ({where})"


def shift(series: Series | None) -> Shift | None:
    """The shift of a curve on training pairs; None with fewer than `FEWEST` points."""
    if series is None or len(series.points) < FEWEST:
        return None
    values, steps, quarter = series.values, list(series.points), len(series.points) // 4
    bends = [
        (a - 2 * b + c) ** 2 / 6 for a, b, c in zip(values, values[1:], values[2:], strict=False)
    ]
    error = math.sqrt(fmean(bends)) * math.sqrt(2 / quarter)
    first, last = fmean(values[:quarter]), fmean(values[-quarter:])
    return Shift(first, last, error, len(values), (steps[0], steps[-1]))


def held_out(curves: Curves, metric: str) -> Shift | None:
    """From the first to the last evaluation of the first evaluation set; None without two."""
    for one in curves.held_out.get(metric, []):
        values, steps = one.values, list(one.points)
        if len(values) > 1:
            return Shift(values[0], values[-1], 0.0, len(values), (steps[0], steps[-1]))
    return None


def ended_lower(curves: Curves, metric: str) -> bool:
    """Whether a training curve ended below its first point: a run that broke at once did not."""
    series = curves.training.get(metric)
    found = shift(series)
    return found is not None and series is not None and found.last < series.values[0]


def loss_spikes(series: Series | None) -> list[float]:
    """The steps at which the loss stands far above those before it.

    As the guard does while training: above the median of the twenty before it by many times their
    spread (the median absolute deviation), by 30 % and by 0.1.
    """
    found, points = [], list(series.points.items()) if series else []
    for i, (step, value) in enumerate(points[5:], 5):
        earlier = [one for _, one in points[max(0, i - _HISTORY) : i]]
        middle = median(earlier)
        spread = 1.4826 * median(abs(one - middle) for one in earlier)
        if value - middle > max(7 * (1 + 5 / len(earlier)) * spread, 0.3 * abs(middle), 0.1):
            found.append(step)
    return found


@dataclass(frozen=True)
class Observed:
    """Everything that the rules of the diagnosis look at."""

    curves: Curves
    objective: str = "orpo"
    alpha: float | None = None
    learning_rate: float | None = None
    halfway: bool = True  # half of the planned steps are done
    lengths: list[tuple[int, int, int]] = field(default_factory=list)
    """Characters of the sample answers before, after, and of the preferred one (0 if unknown)."""
    events: list[tuple[float, str]] = field(default_factory=list)  # (step, kind)

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


def observed(run: Run, curves: Curves) -> Observed:
    """What a run folder holds for the rules."""
    recipe, state = mapping(run.recipe), progress(run)
    names = ("before", "after", "chosen")
    answers = [[row.get(name) for name in names] for row in records(run.samples)]
    lengths = [
        (len(text_of(before)), len(text_of(after)), len(text_of(chosen)))
        for before, after, chosen in answers
        if before is not None and after is not None
    ]
    return Observed(
        curves,
        str(recipe.get("objective") or "orpo"),
        number(recipe.get("orpo_alpha")),
        number(recipe.get("learning_rate")),
        state.finished or not state.planned or 2 * (state.step or 0) >= state.planned,
        lengths,
        [(number(one.get("step")) or 0.0, str(one.get("kind", ""))) for one in records(run.events)],
    )
