"""The table of `orpo tune` in a terminal, and what is recommended in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

__all__ = ["result_lines", "trial_table"]

_MOST = 12
_MEASURES = {
    "score": ("score", 1, "", 4),
    "correct_answers": ("right answers", 100, " %", 1),
    "preference_accuracy": ("prefers the chosen answer", 100, " %", 1),
}


def trial_table(result: Mapping[str, Any]) -> Table:
    """The best trials, and the one that the search started from."""
    held_out, trials = result["held_out"], result["trials"]
    table = Table(
        title=f"trials of {result['steps']} steps, on {held_out['choosing']} held-out pairs",
        title_justify="left",
        title_style="bold",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
    )
    for head in ("rate", "lambda", "score", "less than the best", "prefers", ""):
        table.add_column(head, justify="right", no_wrap=True)
    shown = trials[:_MOST]
    shown += [one for one in trials[_MOST:] if one["start"]]
    for one in shown:
        table.add_row(*_cells(one, result))
    if len(trials) > len(shown):
        table.caption = f"{len(trials) - len(shown)} more on the page"
    return table


def result_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """What came of it, in words."""
    account, found = result["account"], result["recommended"]
    parts = {
        "complete": "whole",
        "pruned": "given up early",
        "failed": "broken",
        "cut off": "cut off and run again",
        "running": "under way elsewhere",
    }
    told = [f"{account[state]} {word}" for state, word in parts.items() if account[state]]
    yield f"trials: {', '.join(told)}"
    yield f"cannot be told apart from the best: {found['band_words']}"
    for name, which in found["edges"]:
        flag = {"learning_rate": "--learning_rates", "orpo_alpha": "--alphas"}[name]
        yield f"the best {name} lies at the {which} end of its range: widen it with {flag}"
    comparison = result["comparison"]
    if comparison is not None:
        pairs = comparison["measures"]["score"]["change"]["n"]
        yield f"the test, on {pairs} pairs that no trial has seen, start -> best of the trials:"
        for name, (label, scale, unit, digits) in _MEASURES.items():
            measure = comparison["measures"].get(name)
            if measure is not None:
                before, after = (scale * measure[m]["value"] for m in ("start", "best"))
                change = _change(measure["change"], scale, digits)
                yield _minus(
                    f"  {label}: {before:.{digits}f}{unit} -> {after:.{digits}f}{unit}, {change}"
                )
    yield found["why"]


def _cells(one: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    marks = [
        *(["best"] if one["number"] == result["recommended"]["trial"] else []),
        *(["start"] if one["start"] else []),
    ]
    cells = [f"{one['learning_rate']:.3g}", f"{one['orpo_alpha']:.3g}"]
    score = "" if one["score"] is None else f"{one['score']:.4f}"
    if one["state"] != "complete":
        told = f"left at {one['steps']}" if one["state"] == "pruned" else one["state"]
        return [_minus(cell) for cell in (*cells, score, "", "", told)]
    behind = one["behind_the_best"]
    less = "" if "best" in marks else f"{behind['value']:.3f} ({_ends(behind, 1, 3)})"
    marks += ["cannot tell"] if one["near"] and "best" not in marks else []
    share = f"{100 * one['preference_accuracy']:.1f} %"
    return [_minus(cell) for cell in (*cells, score, less, share, ", ".join(marks))]


def _change(change: Mapping[str, Any], scale: float, digits: int) -> str:
    verdict = change["verdict"]
    return f"{scale * change['value']:+.{digits}f} ({_ends(change, scale, digits)}): {verdict}"


def _ends(interval: Mapping[str, Any], scale: float, digits: int) -> str:
    ends = [interval[name] for name in ("low", "high")]
    return " to ".join("?" if end is None else f"{scale * end:+.{digits}f}" for end in ends)


def _minus(text: str) -> str:
    """Minus signs, but in exponents."""
    return re.sub(r"(?<![e\d])-(?=\d)", "−", text)
