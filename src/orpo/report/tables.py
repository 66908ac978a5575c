"""Numbers before and after training, as rows of tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from orpo.report.values import as_change, as_count, as_number, as_percent, mapping, number, whole
from orpo.run_folder import Run

__all__ = ["Breakdown", "Change", "breakdowns", "change_of", "changes", "counts"]

_COUNTS = ("pairs", "prompts", "n")
_ROWS = 40


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
        bar: Both values in percent of a bar, for shares.
    """

    name: str
    label: str
    meaning: str
    before: str
    after: str
    change: str
    verdict: str
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
    return [change_of(name, before.get(name), after.get(name)) for name in names]


def counts(run: Run) -> str:
    """What was scored: 400 pairs, 200 prompts."""
    before, after = _sides(run)
    found = {name: whole(after.get(name, before.get(name))) for name in ("pairs", "prompts")}
    return ", ".join(as_count(n, name[:-1]) for name, n in found.items() if n is not None)


def breakdowns(run: Run) -> list[Breakdown]:
    """The parts of evaluation.json called by_*: {"by_task": {"sums": {"n": 12, ...}}}."""
    before, after = _sides(run)
    found = []
    for key in {**after, **before}:
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
                (group, _size(old, new), change_of(metric, old.get(metric), new.get(metric)))
                for group, (old, new) in parts.items()
                if _is_shown(metric, old, new)
            ]
            title = key.replace("_", " ")
            found.append(Breakdown(title, _label(metric), rows[:_ROWS], max(0, len(rows) - _ROWS)))
    return found


def change_of(name: str, before: object, after: object) -> Change:
    """A number before and after, judged where more or less of it is better."""
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
        _judged(old, new, known.better),
        _bar(old, new) if known.share else None,
    )


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
