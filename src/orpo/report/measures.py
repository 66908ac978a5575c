"""Numbers before and after training, from a run's evaluation.json and its samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orpo.report.values import (
    as_change,
    as_count,
    as_number,
    as_percent,
    count,
    mapping,
    number,
    records,
)
from orpo.runs.files import Run

_COUNTS = ("pairs", "prompts", "n", "compared")
_ROWS = 40
_FEWEST_TURNED = 10
_POINTS = "\u00a0pp"

Ends = tuple[float, float]
"""Of a 95 % interval."""


@dataclass(frozen=True)
class _Known:
    label: str
    meaning: str
    better: int = 0  # +1: more is better, -1: less is better, 0: neither
    share: bool = False


_PREFERS = _Known(
    "Preference accuracy", "pairs whose chosen answer is more probable per token", 1, True
)
_KNOWN = {
    "preference_accuracy": _PREFERS,
    "correct_answers": _Known("Correct answers", "greedy answers that pass the check", 1, True),
    "log_odds_chosen": _Known("Log odds ratio", "chosen over rejected, mean", 1),
    "logps/chosen": _Known("Log-probability, chosen", "per token, mean"),
    "logps/rejected": _Known("Log-probability, rejected", "per token, mean"),
    "loss": _Known("Loss", "NLL + orpo_alpha × odds-ratio term", -1),
    "nll_loss": _Known("NLL", "of the chosen answers, per token", -1),
    "rewards/accuracies": _PREFERS,
    "rewards/margins": _Known("Reward margin", "chosen minus rejected, mean", 1),
}


@dataclass(frozen=True)
class Change:
    """One number before and after training, as shown.

    `name` is that of evaluation.json; `interval` says where the true change lies; `bar` are both
    values in percent of a bar, for shares; `verdict` is empty where neither can be said.
    """

    name: str
    label: str
    meaning: str
    before: str
    after: str
    change: str
    verdict: str
    interval: str
    bar: tuple[float, float] | None


@dataclass(frozen=True)
class Breakdown:
    """The changes of a metric by task, by language, or by whatever the run distinguishes."""

    title: str
    metric: str
    rows: list[tuple[str, str, Change]]
    left_out: int = 0


@dataclass(frozen=True)
class Comparison:
    """A share of pairs or prompts before and after training; None where it was not measured."""

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


def side(run: Run, moment: str) -> dict[str, Any]:
    """What was measured "before" or "after" training."""
    return mapping(mapping(run.evaluation).get(moment))


def compared(run: Run) -> list[Comparison]:
    """The two shares that a reader asks for first, as far as they were measured."""
    before, after = side(run, "before"), side(run, "after")
    found = []
    for what, names, unit in (
        ("preference accuracy", ("preference_accuracy", "rewards/accuracies"), "pair"),
        ("share of correct answers", ("correct_answers",), "prompt"),
    ):
        size = count(after.get(f"{unit}s")) or count(before.get(f"{unit}s")) or None
        sides = _first(before, names), _first(after, names)
        if sides != (None, None):
            found.append(Comparison(what, *sides, size, unit))
    return found


def _first(metrics: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    """The first of the named metrics that is a finite number."""
    values = (number(metrics.get(key)) for name in names for key in (name, f"eval_{name}"))
    return next((value for value in values if value is not None and math.isfinite(value)), None)


def changes(run: Run) -> list[Change]:
    """Every number of evaluation.json, the known ones first and in a fixed order."""
    before, after = side(run, "before"), side(run, "after")
    names = [name for name in {**after, **before} if _is_shown(name, before, after)]
    order = {name: i for i, name in enumerate(_KNOWN)}
    names.sort(key=lambda name: order.get(name.removeprefix("eval_"), len(order)))
    known = intervals(run)
    return [change_of(name, before.get(name), after.get(name), known.get(name)) for name in names]


def counts(run: Run) -> str:
    """What was scored: 400 pairs, 200 prompts."""
    before, after = side(run, "before"), side(run, "after")
    found = {
        noun: count(after.get(f"{noun}s", before.get(f"{noun}s"))) for noun in ("pair", "prompt")
    }
    return ", ".join(as_count(n, noun) for noun, n in found.items() if n is not None)


def breakdowns(run: Run) -> list[Breakdown]:
    """The parts of evaluation.json called by_*: {"by_task": {"sums": {"n": 12, ...}}}."""
    before, after = side(run, "before"), side(run, "after")
    found = []
    for key in (key for key in {**after, **before} if key.startswith("by_")):
        olds, news = mapping(before.get(key)), mapping(after.get(key))
        parts = {group: (_part(olds, group), _part(news, group)) for group in {**news, **olds}}
        metrics = {name: None for sides in parts.values() for one in sides[::-1] for name in one}
        for metric in metrics:
            rows = [
                (group, _size(old, new), _counted(metric, old, new, both=bool(olds and news)))
                for group, (old, new) in parts.items()
                if _is_shown(metric, old, new)
            ]
            if rows:
                found.append(_breakdown(key.replace("_", " "), metric, rows))
    return [*found, *_grouped(mapping(before.get("groups")), mapping(after.get("groups")))]


def _breakdown(title: str, metric: str, rows: list[tuple[str, str, Change]]) -> Breakdown:
    known = _KNOWN.get(metric.removeprefix("eval_"))
    left = max(0, len(rows) - _ROWS)
    return Breakdown(title, known.label if known else metric, rows[:_ROWS], left)


def _counted(name: str, old: dict[str, Any], new: dict[str, Any], *, both: bool) -> Change:
    """The change of a group; answers that do not occur are 0 of them where both were counted."""
    none = 0 if name == "answers" and both else None
    first, second = old.get(name, none), new.get(name, none)
    return change_of(name, first, second, _of_shares(number(first), number(second), old, new))


def _of_shares(
    before: float | None, after: float | None, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Ends | None:
    """95 % interval of the change of a share, as if both groups had been drawn apart.

    Where the same prompts were answered twice, the true one is narrower.
    """
    first, second = count(old.get("n")), count(new.get("n"))
    if before is None or after is None or not first or not second:
        return None
    if not (0 <= before <= 1 and 0 <= after <= 1):
        return None
    error = math.sqrt(before * (1 - before) / first + after * (1 - after) / second)
    change = after - before
    return max(change - 1.96 * error, -1.0), min(change + 1.96 * error, 1.0)


def _grouped(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Breakdown]:
    """Preference accuracy by group: {"language": {"en": {"n", METRIC: interval, "changes"}}}."""
    name, found = "preference_accuracy", []
    for kind, groups in after.items():
        olds = mapping(before.get(kind))
        rows = []
        for group, value in mapping(groups).items():
            new, old = mapping(value), mapping(olds.get(group))
            first, last = (mapping(one.get(name)).get("value") for one in (old, new))
            ends = _ends(mapping(mapping(new.get("changes")).get(name)))
            rows.append((group, _size(old, new), change_of(name, first, last, ends)))
        if len(rows) > 1:
            found.append(_breakdown(f"by {kind}", name, rows))
    return found


def intervals(run: Run) -> dict[str, Ends]:
    """Metric -> 95 % interval of its change on the same pairs or prompts."""
    turned, found = _turned(run), mapping(side(run, "after").get("changes"))
    known = {name: ends for name, one in found.items() if (ends := _ends(mapping(one)))}
    return known if turned is None else {"correct_answers": turned, **known}


def change_of(name: str, before: object, after: object, interval: Ends | None = None) -> Change:
    """A number before and after, judged where more or less of it is better and no accident."""
    old, new = number(before), number(after)
    known = _KNOWN.get(name.removeprefix("eval_"), _Known(name, ""))
    shown = as_percent if known.share else as_number
    by_chance = interval is not None and interval[0] <= 0 <= interval[1]
    return Change(
        name,
        known.label,
        known.meaning,
        shown(old),
        shown(new),
        as_change(old, new, share=known.share),
        "" if by_chance else _judged(old, new, known.better),
        _interval(interval, share=known.share),
        _bar(old, new) if known.share else None,
    )


def _ends(one: Mapping[str, Any]) -> Ends | None:
    low, high = number(one.get("low")), number(one.get("high"))
    if low is None or high is None or not math.isfinite(high - low):
        return None
    return low, high


def _turned(run: Run) -> Ends | None:
    """95 % interval of the change in correct answers, from the prompts whose answer turned.

    The normal approximation to a difference of paired shares: its variance over n prompts is
    (b + c - (b - c)^2 / n) / n^2 where b turned right and c turned wrong.
    """
    pairs = [(row.get("correct_before"), row.get("correct_after")) for row in records(run.samples)]
    judged = [pair for pair in pairs if all(isinstance(one, bool) for one in pair)]
    right, wrong, n = judged.count((False, True)), judged.count((True, False)), len(judged)
    if right + wrong < _FEWEST_TURNED:
        return None
    mean = (right - wrong) / n
    error = 1.96 * math.sqrt(right + wrong - (right - wrong) ** 2 / n) / n
    return mean - error, mean + error


def _interval(interval: Ends | None, *, share: bool) -> str:
    if interval is None:
        return ""
    low, high = (as_change(0.0, end, share=share) for end in interval)
    return f"{low.removesuffix(_POINTS)} to {high}"


def _is_shown(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    values = number(before.get(name)), number(after.get(name))
    return name not in _COUNTS and values != (None, None)


def _part(groups: Mapping[str, Any], group: str) -> dict[str, Any]:
    """The metrics of a group; a bare number is its `value`."""
    value = groups.get(group)
    return {"value": value} if number(value) is not None else mapping(value)


def _size(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    sizes = (count(one.get(name)) for one in (after, before) for name in _COUNTS)
    return next((f"{size:,}" for size in sizes if size is not None), "")


def _judged(before: float | None, after: float | None, better: int) -> str:
    if not better or before is None or after is None or before == after:
        return ""
    if not math.isfinite(after - before):
        return ""
    return "better" if (after > before) == (better > 0) else "worse"


def _bar(before: float | None, after: float | None) -> tuple[float, float] | None:
    if before is None or after is None or not (0 <= before <= 1 and 0 <= after <= 1):
        return None
    return round(100 * before, 2), round(100 * after, 2)
