"""Numbers before and after training, as rows of tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from orpo.report.values import (
    as_change,
    as_count,
    as_number,
    as_percent,
    mapping,
    number,
    records,
    whole,
)
from orpo.runs import Run

__all__ = ["Breakdown", "Change", "breakdowns", "change_of", "changes", "counts"]

_COUNTS = ("pairs", "prompts", "n", "compared")
_ROWS = 40
_FEWEST_TURNED = 10


@dataclass(frozen=True)
class _Known:
    label: str
    meaning: str
    better: int = 0  # +1: more is better, -1: less is better, 0: neither
    share: bool = False


_KNOWN = {
    "preference_accuracy": _Known(
        "Preference accuracy", "pairs whose chosen answer is more probable per token", 1, True
    ),
    "correct_answers": _Known("Correct answers", "greedy answers that pass the check", 1, True),
    "log_odds_chosen": _Known("Log odds ratio", "chosen over rejected, mean", 1),
    "logps/chosen": _Known("Log-probability, chosen", "per token, mean"),
    "logps/rejected": _Known("Log-probability, rejected", "per token, mean"),
    "loss": _Known("Loss", "NLL + orpo_alpha × odds-ratio term", -1),
    "nll_loss": _Known("NLL", "of the chosen answers, per token", -1),
    "rewards/accuracies": _Known(
        "Preference accuracy", "pairs whose chosen answer is more probable per token", 1, True
    ),
    "rewards/margins": _Known("Reward margin", "chosen minus rejected, mean", 1),
}


@dataclass(frozen=True)
class Change:
    """One number before and after training.

    Attributes:
        name: As it stands in evaluation.json.
        label: What it is called; the name itself if it is not a known one.
        meaning: A few words, or nothing.
        before: As shown.
        after: As shown.
        change: As shown, with its sign.
        verdict: "better", "worse", or nothing where neither can be said.
        interval: Where the true change lies, as shown; empty if that was not worked out.
        bar: Both values in percent of a bar, for shares.
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
    """The changes of one metric by task, by language, or by whatever the run distinguishes."""

    title: str
    metric: str
    rows: list[tuple[str, str, Change]]
    left_out: int = 0


def changes(run: Run) -> list[Change]:
    """Every number of evaluation.json, the known ones first and in a fixed order."""
    before, after = _sides(run)
    names = [name for name in {**after, **before} if _is_shown(name, before, after)]
    order = {name: i for i, name in enumerate(_KNOWN)}
    names.sort(key=lambda name: order.get(_plain(name), len(order)))
    known = intervals(run)
    return [change_of(name, before.get(name), after.get(name), known.get(name)) for name in names]


def counts(run: Run) -> str:
    """What was scored: 400 pairs, 200 prompts."""
    before, after = _sides(run)
    found = {name: whole(after.get(name, before.get(name))) for name in ("pairs", "prompts")}
    return ", ".join(as_count(n, name[:-1]) for name, n in found.items() if n is not None)


def breakdowns(run: Run) -> list[Breakdown]:
    """The parts of evaluation.json called by_*: {"by_task": {"sums": {"n": 12, ...}}}."""
    before, after = _sides(run)
    found = []
    for key in (key for key in {**after, **before} if key.startswith("by_")):
        olds, news = mapping(before.get(key)), mapping(after.get(key))
        groups = list({**news, **olds})
        parts = {group: (_part(olds, group), _part(news, group)) for group in groups}
        metrics = dict.fromkeys(
            name
            for old, new in parts.values()
            for name in {**new, **old}
            if _is_shown(name, old, new)
        )
        for metric in metrics:
            rows = [
                (group, _size(old, new), _counted(metric, old, new, both=bool(olds and news)))
                for group, (old, new) in parts.items()
                if _is_shown(metric, old, new)
            ]
            title = key.replace("_", " ")
            found.append(Breakdown(title, _label(metric), rows[:_ROWS], max(0, len(rows) - _ROWS)))
    return [*found, *_grouped(mapping(before.get("groups")), mapping(after.get("groups")))]


def _counted(name: str, old: dict[str, Any], new: dict[str, Any], *, both: bool) -> Change:
    """The change of a group; answers that do not occur are 0 of them where both were counted."""
    none = 0 if name == "answers" and both else None
    first, second = old.get(name, none), new.get(name, none)
    return change_of(name, first, second, _of_shares(number(first), number(second), old, new))


def _of_shares(
    before: float | None, after: float | None, old: dict[str, Any], new: dict[str, Any]
) -> tuple[float, float] | None:
    """95 % interval of the change of a share, as if both groups had been drawn apart.

    Where the same prompts were answered twice, the true one is narrower.
    """
    first, second = whole(old.get("n")), whole(new.get("n"))
    if before is None or after is None or not first or not second:
        return None
    if not (0 <= before <= 1 and 0 <= after <= 1):
        return None
    error = math.sqrt(before * (1 - before) / first + after * (1 - after) / second)
    change = after - before
    return max(change - 1.96 * error, -1.0), min(change + 1.96 * error, 1.0)


def _grouped(before: dict[str, Any], after: dict[str, Any]) -> list[Breakdown]:
    """Preference accuracy by group: {"language": {"en": {"n", METRIC: interval, "changes"}}}."""
    name, found = "preference_accuracy", []
    for kind, groups in after.items():
        earlier = mapping(before.get(kind))
        rows = []
        for group, value in mapping(groups).items():
            new, old = mapping(value), mapping(earlier.get(group))
            change = change_of(
                name,
                mapping(old.get(name)).get("value"),
                mapping(new.get(name)).get("value"),
                _ends(mapping(mapping(new.get("changes")).get(name))),
            )
            rows.append((group, _size(old, new), change))
        if len(rows) > 1:
            found.append(
                Breakdown(f"by {kind}", _label(name), rows[:_ROWS], max(0, len(rows) - _ROWS))
            )
    return found


def intervals(run: Run) -> dict[str, tuple[float, float]]:
    """Metric -> 95 % interval of its change on the same pairs or prompts."""
    _, after = _sides(run)
    found = {
        name: ends
        for name, one in mapping(after.get("changes")).items()
        if (ends := _ends(mapping(one))) is not None
    }
    ends = _turned(run)
    return found if ends is None else {"correct_answers": ends, **found}


def change_of(
    name: str, before: object, after: object, interval: tuple[float, float] | None = None
) -> Change:
    """A number before and after, judged where more or less of it is better and no accident."""
    old, new = number(before), number(after)
    known = _KNOWN.get(_plain(name), _Known(name, ""))
    shown = as_percent if known.share else as_number
    return Change(
        name,
        known.label,
        known.meaning,
        shown(old),
        shown(new),
        as_change(old, new, share=known.share),
        "" if _spans_zero(interval) else _judged(old, new, known.better),
        _interval(interval, share=known.share),
        _bar(old, new) if known.share else None,
    )


def _ends(one: dict[str, Any]) -> tuple[float, float] | None:
    low, high = number(one.get("low")), number(one.get("high"))
    if low is None or high is None or not math.isfinite(high - low):
        return None
    return low, high


def _turned(run: Run) -> tuple[float, float] | None:
    """95 % interval of the change in correct answers, from the prompts whose answer turned.

    The normal approximation to a difference of paired shares: its variance over n prompts is
    (b + c - (b - c)^2 / n) / n^2 where b turned right and c turned wrong.
    """
    pairs = [(row.get("correct_before"), row.get("correct_after")) for row in records(run.samples)]
    judged = [pair for pair in pairs if all(isinstance(side, bool) for side in pair)]
    right, wrong, n = judged.count((False, True)), judged.count((True, False)), len(judged)
    if right + wrong < _FEWEST_TURNED:
        return None
    mean = (right - wrong) / n
    error = 1.96 * math.sqrt(right + wrong - (right - wrong) ** 2 / n) / n
    return mean - error, mean + error


def _spans_zero(interval: tuple[float, float] | None) -> bool:
    return interval is not None and interval[0] <= 0 <= interval[1]


def _interval(interval: tuple[float, float] | None, *, share: bool) -> str:
    if interval is None:
        return ""
    low, high = (as_change(0.0, end, share=share) for end in interval)
    unit = "\u00a0pp" if share else ""
    return f"{low.removesuffix(unit)} to {high}"


def _sides(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    evaluation = mapping(run.evaluation)
    return mapping(evaluation.get("before")), mapping(evaluation.get("after"))


def _plain(name: str) -> str:
    return name.removeprefix("eval_")


def _label(name: str) -> str:
    known = _KNOWN.get(_plain(name))
    return known.label if known else name


def _is_shown(name: str, before: dict[str, Any], after: dict[str, Any]) -> bool:
    values = number(before.get(name)), number(after.get(name))
    return name not in _COUNTS and values != (None, None)


def _part(side: dict[str, Any], group: str) -> dict[str, Any]:
    """The metrics of a group; a bare number is its `value`."""
    value = side.get(group)
    return {"value": value} if number(value) is not None else mapping(value)


def _size(before: dict[str, Any], after: dict[str, Any]) -> str:
    sizes = [whole(side.get(name)) for side in (after, before) for name in _COUNTS]
    return next((f"{size:,}" for size in sizes if size is not None), "")


def _judged(before: float | None, after: float | None, better: int) -> str:
    if before is None or after is None or not math.isfinite(after - before) or before == after:
        return ""
    direction = 1 if after > before else -1
    return "" if better == 0 else "better" if direction == better else "worse"


def _bar(before: float | None, after: float | None) -> tuple[float, float] | None:
    if before is None or after is None or not (0 <= before <= 1 and 0 <= after <= 1):
        return None
    return round(100 * before, 2), round(100 * after, 2)
