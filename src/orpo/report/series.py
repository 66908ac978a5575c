"""The curves of metrics.jsonl as numbers, and how far each went beside its own noise."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Any

from orpo.quantities import as_pair, as_percent, number
from orpo.report.values import count, mapping, records, text_of
from orpo.runs.curves import Series, Shift, shift
from orpo.runs.files import Run

METRICS = (
    *("loss", "nll_loss", "log_odds_chosen", "rewards/accuracies", "logps/chosen"),
    *("logps/rejected", "learning_rate", "grad_norm"),
)
"""The metrics that are drawn."""
_LOGGED = re.compile(rf"(?:eval_(?:(.*?)_)??)?({'|'.join(METRICS)})", re.DOTALL)
_LARGEST = 1e100  # beyond it squares overflow, and nothing is left to see on an axis
_LAST_STEP = 1e15  # beyond it floats are no longer counts
_SMOOTH_FROM = 60  # points; a shorter curve is read as it is


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


def read_curves(lines: Iterable[object], pairs: float = 1.0) -> Curves:
    """Sort the logged numbers into curves; where a step is logged twice, the later line counts.

    `pairs` are those of a step: a training line covers the steps since the one before it.
    """
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
    trained = {step for (_, source), logged in found.items() if source is None for step in logged}
    covered = {step: pairs * steps for step, steps in _covered(sorted(trained)).items()}
    for (metric, source), logged in sorted(found.items(), key=lambda item: item[0][1] or ""):
        usable = {step: value for step, value in sorted(logged.items()) if abs(value) < _LARGEST}
        one = Series(metric, source, usable, tuple(s for s in sorted(logged) if s not in usable))
        if source is None:
            training[metric] = replace(one, pairs=covered)
        else:
            held_out.setdefault(metric, []).append(one)
    return Curves(training, held_out)


def _covered(steps: list[float]) -> dict[float, float]:
    """How many steps the line of each is about: the first one's are never more than another's."""
    spans = [later - earlier for earlier, later in pairwise(steps)]
    first = min(max(spans, default=math.inf), *steps[:1]) if steps else 0.0
    return {step: max(1.0, span) for step, span in zip(steps, [first, *spans], strict=False)}


def curves_of(run: Run) -> Curves:
    """The curves of a run; its recipe tells how many pairs a step takes."""
    recipe, facts = mapping(run.recipe), mapping(mapping(run.recipe).get("_run"))
    sizes = recipe.get("per_device_train_batch_size"), recipe.get("gradient_accumulation_steps")
    pairs = math.prod(count(size) or 1 for size in (*sizes, facts.get("world_size")))
    return read_curves(run.metrics, min(pairs, _trained_pairs(run) or pairs))


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


# For the diagnosis


def told(found: Shift, name: str, *, share: bool = False) -> str:
    """In words: "the loss 2.08 → 0.97 (steps 1 to 200, noise ±0.03)"."""
    first, last = as_pair(found.first, found.last)
    noise = as_pair(found.error, max(abs(found.first), abs(found.last)))[0]
    if share:
        first, last, noise = map(as_percent, (found.first, found.last, found.error))
    where = f"steps {found.steps[0]:,.0f} to {found.steps[1]:,.0f}"
    where += f", noise ±{noise}" if found.error else ""
    return f"{name} {first} → {last} ({where})"


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
    steps: int | None = None  # that were taken
    pairs: int | None = None  # that were trained on

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
        [(number(one.get("step")) or 0.0, _kind(one)) for one in records(run.events)],
        state.step,
        _trained_pairs(run),
    )


def _kind(event: dict[str, Any]) -> str:
    """What happened; of a run that broke, whether at what was not finite."""
    kind, said = str(event.get("kind", "")), str(event.get("message", ""))
    return "nonfinite" if kind == "failed" and "not finite" in said else kind


def _trained_pairs(run: Run) -> int | None:
    data = mapping(mapping(mapping(run.recipe).get("_run")).get("data"))
    return count(mapping(data.get("train_dataset")).get("kept"))
