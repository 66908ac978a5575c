"""Numbers before and after training, from a run's evaluation.json and its samples."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orpo import quantities
from orpo.quantities import as_pair, as_percent, number
from orpo.report.values import count, mapping, records
from orpo.runs.files import Run

_COUNTS = ("pairs", "prompts", "n", "compared")
_ROWS = 40
_FEWEST_TURNED = 10

Ends = tuple[float, float]
"""Of a 95 % interval."""
Row = tuple[str, str, "Change"]
"""A group, its size, and what changed in it."""


@dataclass(frozen=True)
class Change:
    """One number before and after training, as shown."""

    name: str  # in evaluation.json
    label: str
    meaning: str
    before: str
    after: str
    change: str
    verdict: str  # "better" or "worse"; empty where neither can be said
    interval: str  # where the true change lies
    bar: Ends | None  # of shares, both in percent of a bar


@dataclass(frozen=True)
class Breakdown:
    """The changes of a metric by task, by language, or by whatever the run distinguishes."""

    title: str
    metric: str
    rows: list[Row]
    left_out: int = 0


def side(run: Run, moment: str) -> dict[str, Any]:
    """What was measured "before" or "after" training."""
    return mapping(mapping(run.evaluation).get(moment))


def changes(run: Run) -> list[Change]:
    """Every number of evaluation.json, the known ones first and in a fixed order."""
    before, after = (quantities.told_of(side(run, moment)) for moment in ("before", "after"))
    ends, recipe = intervals(run), mapping(run.recipe)
    return [
        _change(name, before.get(name), after.get(name), ends.get(name), recipe)
        for name in quantities.told_of({**after, **before})
        if _is_shown(name, before, after)
    ]


def counts(run: Run) -> str:
    """What was scored: 400 pairs, 200 prompts."""
    before, after = side(run, "before"), side(run, "after")
    sizes = {noun: after.get(f"{noun}s", before.get(f"{noun}s")) for noun in ("pair", "prompt")}
    told = ((count(size), noun) for noun, size in sizes.items())
    return ", ".join(quantities.as_count(n, noun) for n, noun in told if n is not None)


def breakdowns(run: Run) -> list[Breakdown]:
    """The parts of evaluation.json called by_*, and its groups."""
    before, after = side(run, "before"), side(run, "after")
    found = []
    for key in (key for key in {**after, **before} if key.startswith("by_")):
        olds, news = mapping(before.get(key)), mapping(after.get(key))
        parts = [(group, _part(olds, group), _part(news, group)) for group in {**news, **olds}]
        for metric in {name: None for _, *sides in parts for one in sides[::-1] for name in one}:
            # Answers that do not occur are 0 of them where both were counted.
            none = 0 if metric == "answers" and olds and news else None
            rows = [
                _row(group, metric, old, new, none)
                for group, old, new in parts
                if _is_shown(metric, old, new)
            ]
            if rows:
                found.append(_breakdown(key.replace("_", " "), metric, rows))
    return [*found, *_grouped(mapping(before.get("groups")), mapping(after.get("groups")))]


def _grouped(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Breakdown]:
    """Preference accuracy by group: {"language": {"en": {"n", METRIC: interval, "changes"}}}."""
    name = "preference_accuracy"
    for kind, groups in after.items():
        olds, rows = mapping(before.get(kind)), []
        for group, value in mapping(groups).items():
            new, old = mapping(value), mapping(olds.get(group))
            first, last = (mapping(one.get(name)).get("value") for one in (old, new))
            ends = _ends(mapping(new.get("changes")).get(name))
            rows.append((group, _size(old, new), _change(name, first, last, ends)))
        if len(rows) > 1:
            yield _breakdown(f"by {kind}", name, rows)


def _breakdown(title: str, metric: str, rows: list[Row]) -> Breakdown:
    left = max(0, len(rows) - _ROWS)
    return Breakdown(title, quantities.measure(metric).label, rows[:_ROWS], left)


def _part(groups: Mapping[str, Any], group: str) -> dict[str, Any]:
    """The metrics of a group; a bare number is its `value`."""
    value = groups.get(group)
    return {"value": value} if number(value) is not None else mapping(value)


def _row(group: str, metric: str, old: dict[str, Any], new: dict[str, Any], none: object) -> Row:
    """The interval of a share is as if both groups had been drawn apart.

    Where the same prompts were answered twice, the true one is narrower.
    """
    first, last = old.get(metric, none), new.get(metric, none)
    before, after, ends = number(first), number(last), None
    n, m = count(old.get("n")), count(new.get("n"))
    if before is not None and after is not None and n and m and 0 <= before <= 1 >= after >= 0:
        error = 1.96 * math.sqrt(before * (1 - before) / n + after * (1 - after) / m)
        change = after - before
        ends = max(change - error, -1.0), min(change + error, 1.0)
    return group, _size(old, new), _change(metric, first, last, ends)


def _size(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    sizes = (count(one.get(name)) for one in (after, before) for name in _COUNTS)
    return next((f"{size:,}" for size in sizes if size is not None), "")


def _is_shown(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    known = number(before.get(name)), number(after.get(name))
    return name not in _COUNTS and known != (None, None)


def intervals(run: Run) -> dict[str, Ends]:
    """Metric -> 95 % interval of its change on the same pairs or prompts.

    That of correct answers is from the prompts whose answer turned, by the normal approximation to
    a difference of paired shares: its variance over n prompts is (b + c - (b - c)^2 / n) / n^2
    where b turned right and c turned wrong.
    """
    pairs = [(row.get("correct_before"), row.get("correct_after")) for row in records(run.samples)]
    judged = [pair for pair in pairs if all(isinstance(one, bool) for one in pair)]
    right, wrong, n = judged.count((False, True)), judged.count((True, False)), len(judged)
    found: dict[str, Ends] = {}
    if right + wrong >= _FEWEST_TURNED:
        mean = (right - wrong) / n
        error = 1.96 * math.sqrt(right + wrong - (right - wrong) ** 2 / n) / n
        found["correct_answers"] = mean - error, mean + error
    told = mapping(side(run, "after").get("changes"))
    found |= {name: ends for name, one in told.items() if (ends := _ends(one))}
    return quantities.told_ends(found)


def _ends(one: object) -> Ends | None:
    low, high = number(mapping(one).get("low")), number(mapping(one).get("high"))
    if low is None or high is None or not math.isfinite(high - low):
        return None
    return low, high


def _change(
    name: str,
    before: object,
    after: object,
    interval: Ends | None,
    recipe: Mapping[str, Any] | None = None,
) -> Change:
    """A number before and after, judged where more or less of it is better and no accident."""
    old, new = number(before), number(after)
    known = quantities.measure(name, recipe)
    shown = (as_percent(old), as_percent(new)) if known.share else as_pair(old, new)
    verdict, told, bar = "", "", None
    if old is not None and new is not None:
        by_chance = interval is not None and interval[0] <= 0 <= interval[1]
        if known.better and old != new and math.isfinite(new - old) and not by_chance:
            verdict = "better" if (new > old) == (known.better > 0) else "worse"
        if known.share and 0 <= old <= 1 and 0 <= new <= 1:
            bar = round(100 * old, 2), round(100 * new, 2)
    if interval is not None:
        low, high = (quantities.as_change(0.0, end, share=known.share) for end in interval)
        low = low.removesuffix(" pp")
        told = f"{low} to {high}"
    change = quantities.as_change(old, new, share=known.share)
    return Change(*(name, known.label, known.meaning, *shown, change), verdict, told, bar)
