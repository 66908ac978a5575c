"""What a run's numbers say, in plain words: the verdict, and what has to be said beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from orpo.report.series import Curves, Series, Trend
from orpo.report.values import (
    as_count,
    as_number,
    as_pair,
    as_percent,
    joined,
    lasting,
    mapping,
    number,
    records,
    sentence,
    whole,
)
from orpo.runs import Run

__all__ = ["Comparison", "Progress", "Verdict", "compared", "progress", "trend_told", "verdict"]

_PREFERENCE = ("preference_accuracy", "rewards/accuracies")
_CORRECT = ("correct_answers",)


@dataclass(frozen=True)
class Verdict:
    """The run in a sentence, and what qualifies it."""

    sentence: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A share before and after training.

    Attributes:
        what: What it is the share of, for a sentence.
        before: None if it was not measured.
        after: None if it was not measured.
        count: Number of pairs or prompts; None if unknown.
        unit: "pair" or "prompt".
    """

    what: str
    before: float | None
    after: float | None
    count: int | None
    unit: str

    @property
    def outcome(self) -> str:
        """One of "better", "worse", "same", "unclear" (chance could explain it), "unknown".

        Chance: 1.96 standard errors of the difference of two independent shares. The same pairs
        are scored twice, which as a rule makes the true error smaller: "unclear" errs on that side.
        """
        if self.before is None or self.after is None:
            return "unknown"
        change = self.after - self.before
        if change == 0:
            return "same"
        if self.count:
            spread = sum(p * (1 - p) for p in (self.before, self.after) if 0 <= p <= 1)
            if abs(change) <= 1.96 * math.sqrt(spread / self.count):
                return "unclear"
        return "better" if change > 0 else "worse"


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        step: Last step that logged anything; None if there is none.
        planned: Steps in all; None if unknown.
        finished: Training came to its end.
    """

    step: int | None
    planned: int | None
    finished: bool


def progress(run: Run) -> Progress:
    """How far the run is, from its log: the trainer ends it with a line of totals."""
    lines = records(run.metrics)
    steps = [step for line in lines if (step := whole(line.get("step"))) is not None]
    totals = [i for i, line in enumerate(lines) if "train_runtime" in line]
    last_trained = max((i for i, line in enumerate(lines) if "loss" in line), default=-1)
    planned = whole(run.recipe.get("max_steps"))
    finished = bool(totals) and totals[-1] > last_trained
    return Progress(
        max(steps, default=None), planned or None, finished or bool(_side(run, "after"))
    )


def compared(run: Run) -> list[Comparison]:
    """The two shares that a reader asks for first, as far as they were measured."""
    before, after = _side(run, "before"), _side(run, "after")
    found = [
        Comparison(what, _first(before, names), _first(after, names), count, unit)
        for what, names, unit, count in (
            ("preference accuracy", _PREFERENCE, "pair", _count(before, after, "pairs")),
            ("share of correct answers", _CORRECT, "prompt", _count(before, after, "prompts")),
        )
    ]
    return [one for one in found if one.before is not None or one.after is not None]


def trend_told(name: str, trend: Trend, *, share: bool = False, grows: bool = False) -> str:
    """Where a curve started and ended: "the loss fell from 2.08 to 1.06".

    Args:
        name: What the curve shows.
        trend: How it goes.
        share: Show percentages.
        grows: Say "grew" and "shrank", as of a distance.
    """
    first, last = as_pair(trend.first, trend.last)
    if share:
        first, last = as_percent(trend.first), as_percent(trend.last)
    if trend.direction == "held":
        return f"{name} showed no clear trend ({first} → {last})"
    verb = trend.direction
    if grows:
        verb = "grew" if verb == "rose" else "shrank"
    return f"{name} {verb} from {first} to {last}"


def verdict(run: Run, curves: Curves) -> Verdict:
    """The verdict on a run, with nothing in it that its files do not show."""
    remarks = [*_progress_remarks(run, curves), *_broken_remarks(curves)]
    comparisons = compared(run)
    told = _side(run, "after").get("verdict")
    if isinstance(told, str) and told.strip():
        rest = [one for one in comparisons if one.unit == "prompt" and one.after is not None]
        text = sentence(lasting(told, 600)) + (f" {_after_sentence(rest)}" if rest else "")
        remarks = [*_chance_remarks(rest), *remarks]
    elif any(one.after is not None for one in comparisons):
        text = _after_sentence(comparisons)
        remarks = [*_chance_remarks(comparisons), *remarks]
    elif comparisons:
        text = _before_sentence(comparisons)
        remarks = [_training_sentence(curves), *remarks]
    elif _side(run, "after"):
        text = "A held-out evaluation was made, but it holds no preference accuracy."
        remarks = [_training_sentence(curves), *remarks]
    else:
        text = _held_out_curve_sentence(run, curves) or _training_sentence(curves)
        remarks = [_no_evaluation(curves), *remarks]
    return Verdict(text, tuple(remark for remark in remarks if remark))


def _side(run: Run, name: str) -> dict[str, Any]:
    return mapping(mapping(run.evaluation).get(name))


def _first(metrics: dict[str, Any], names: tuple[str, ...]) -> float | None:
    """The first of the named metrics that is a finite number."""
    for name in names:
        for key in (name, f"eval_{name}"):
            value = number(metrics.get(key))
            if value is not None and math.isfinite(value):
                return value
    return None


def _count(before: dict[str, Any], after: dict[str, Any], name: str) -> int | None:
    return whole(after.get(name)) or whole(before.get(name)) or None


def _after_sentence(comparisons: list[Comparison]) -> str:
    measured = [one for one in comparisons if one.after is not None]
    clauses = []
    for one in measured:
        first = one is measured[0]
        told = f"{_on(one)} {_subject(one, first=first)} in {as_percent(one.after)}"
        if first:
            told += " of cases"
        elif one.count in (None, measured[0].count):
            told = told.removeprefix(f"{_on(one)} ")
        earlier = "not measured" if one.before is None else as_percent(one.before)
        clauses.append(f"{told} (before: {earlier})")
    return sentence(", and ".join(clauses))


def _subject(one: Comparison, *, first: bool) -> str:
    if one.unit == "pair":
        return "the model now prefers the chosen answer"
    return (
        "the model’s greedy answers are now correct" if first else "its greedy answers are correct"
    )


def _before_sentence(comparisons: list[Comparison]) -> str:
    told = [
        f"the model preferred the chosen answer in {as_percent(one.before)} of cases"
        if one.unit == "pair"
        else f"{as_percent(one.before)} of its greedy answers were correct"
        for one in comparisons
    ]
    return sentence(
        f"{_on(comparisons[0])} {joined(told)} before training; there is no evaluation after "
        "training yet"
    )


def _on(one: Comparison) -> str:
    noun = f"held-out {one.unit}"
    return f"on {noun}s" if one.count is None else f"on {as_count(one.count, noun)}"


def _chance_remarks(comparisons: list[Comparison]) -> list[str]:
    """What a careful reader would add to the shares."""
    by_outcome: dict[str, list[Comparison]] = {}
    for one in comparisons:
        by_outcome.setdefault(one.outcome, []).append(one)
    remarks = [f"The {one.what} got worse." for one in by_outcome.get("worse", [])]
    remarks += [f"The {one.what} did not change." for one in by_outcome.get("same", [])]
    remarks += [
        f"Chance alone could explain the change in {one.what} on {as_count(one.count, one.unit)}."
        for one in by_outcome.get("unclear", [])
        if one.count
    ]
    return remarks


def _no_evaluation(curves: Curves) -> str:
    if curves.held_out:
        return "No held-out evaluation was made before training, so nothing shows what was gained."
    return (
        "No held-out evaluation was made. Training pairs alone cannot show whether this carries "
        "over to prompts that the model has not seen."
    )


def _held_out_curve_sentence(run: Run, curves: Curves) -> str:
    """From evaluations logged while training, where there was none before and after."""
    for series in curves.held_out.get("rewards/accuracies", []):
        steps = list(series.points)
        if not steps:
            continue
        name = f" ({lasting(series.source, 60)})" if series.source else ""
        size = _size(run, series)
        pairs = as_count(size, "held-out pair") if size else "held-out pairs"
        first, last = series.points[steps[0]], series.points[steps[-1]]
        told = (
            f"at step {steps[-1]:,.0f} the model preferred the chosen answer in "
            f"{as_percent(last)} of {pairs}{name}"
        )
        if len(steps) > 1:
            told += f" (at step {steps[0]:,.0f}: {as_percent(first)})"
        return sentence(told)
    return ""


def _size(run: Run, series: Series) -> int | None:
    """Pairs in an evaluation set, from the data account."""
    name = f"eval_dataset[{series.source}]" if series.source else "eval_dataset"
    accounts = mapping(mapping(run.recipe.get("_run")).get("data"))
    return whole(mapping(accounts.get(name)).get("kept"))


def _training_sentence(curves: Curves) -> str:
    parts = [
        part
        for part in (
            _share_told(curves.training.get("rewards/accuracies")),
            _loss_told(curves.training.get("loss")),
        )
        if part
    ]
    if not parts:
        return "No training step has been logged yet, so there is nothing to say about this run."
    return sentence(f"on its training pairs {', and '.join(parts)}")


def _share_told(series: Series | None) -> str:
    if series is None or not series.points:
        return ""
    trend = series.trend
    if trend is None:
        (value,) = series.points.values()
        return f"the model preferred the chosen answer in {as_percent(value)} of cases"
    return (
        f"the model preferred the chosen answer in {as_percent(trend.last)} of cases at the end "
        f"(at the start: {as_percent(trend.first)})"
    )


def _loss_told(series: Series | None) -> str:
    if series is None or not series.points:
        return ""
    trend = series.trend
    if trend is None:
        (value,) = series.points.values()
        return f"the loss was {as_number(value)} at the one step that was logged"
    return trend_told("the loss", trend)


def _progress_remarks(run: Run, curves: Curves) -> list[str]:
    state = progress(run)
    if state.finished:
        return []
    if state.step is None or not curves.training:
        return ["The run has not logged a training step yet."]
    of = f" of {state.planned:,}" if state.planned else ""
    return [f"The run has not come to its end: its last logged step is {state.step:,}{of}."]


def _broken_remarks(curves: Curves) -> list[str]:
    series = [
        *curves.training.values(),
        *(one for sets in curves.held_out.values() for one in sets),
    ]
    return [
        f"{one.metric}{_source(one)} was NaN or infinite at "
        f"{as_count(len(one.broken), 'logged step')}, first at step {one.broken[0]:,.0f}; "
        "these points are not drawn."
        for one in series
        if one.broken
    ]


def _source(series: Series) -> str:
    if series.source is None:
        return ""
    return f" on {lasting(series.source, 60)}" if series.source else " on held-out pairs"
