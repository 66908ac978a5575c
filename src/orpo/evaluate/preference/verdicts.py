"""What a change means, in words, and how many prompts it would take to see it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

from orpo.evaluate.intervals import Interval

__all__ = ["UNTOLD", "change_of", "told"]

UNTOLD = "cannot be told"

_POWER = 0.8
_MOST = 10**7


def change_of(interval: Interval, words: tuple[str, str] = ("better", "worse")) -> dict[str, Any]:
    """A change for JSON, with its verdict.

    Args:
        interval: Of the mean change.
        words: What more of it and what less of it is called.

    Returns:
        The interval's entries, the verdict, and, where it cannot be told, the prompts and pairs
        that it would take to see a change of this size in four evaluations out of five; None
        where no number is large enough.
    """
    verdict = words[0] if interval.low > 0 else words[1] if interval.high < 0 else UNTOLD
    prompts = _prompts_needed(interval) if verdict == UNTOLD else None
    each = interval.n / interval.clusters
    return {
        **interval.as_dict(),
        "verdict": verdict,
        "prompts_needed": prompts,
        "pairs_needed": None if prompts is None else math.ceil(prompts * each),
    }


def told(after: Mapping[str, Any], change: Mapping[str, Any] | None = None) -> str:
    """One sentence on the share of pairs whose chosen answer is preferred.

    Args:
        after: The interval of the share, as its `as_dict` gives it.
        change: What `change_of` gave of it, if there is something to compare with.
    """
    share = f"{_percent(after['value'])} of {_counted(after)} ({_range(after)})"
    if change is None:
        return f"Prefers the chosen answer in {share}: {_against_chance(after)}."
    before, points = after["value"] - change["value"], 100 * change["value"]
    size = f"{points:+.1f} points (95 % interval {_points(change)})".replace("-", "−")
    head = f"Prefers the chosen answer in {share}, before in {_percent(before)}: "
    if change["verdict"] != UNTOLD:
        return f"{head}{change['verdict']} by {size.lstrip('+−')}."
    return f"{head}whether it is better cannot be told at this size, {size}{_needed(change)}."


def _needed(change: Mapping[str, Any]) -> str:
    if change["prompts_needed"] is None:
        return ""
    if change["pairs_needed"] == change["prompts_needed"]:
        return f"; about {change['pairs_needed']:,} pairs would show such a change"
    return (
        f"; about {change['pairs_needed']:,} pairs ({change['prompts_needed']:,} prompts) would "
        "show such a change"
    )


def _prompts_needed(interval: Interval) -> int | None:
    """Prompts at which the interval would leave out 0 with a chance of 80 %.

    The interval's width falls with the square root of the prompts (Cohen, "Statistical Power
    Analysis", 1988, ch. 2).
    """
    half = (interval.high - interval.low) / 2
    if interval.value == 0 or not math.isfinite(half):
        return None
    normal = NormalDist()
    quantile = normal.inv_cdf((1 + interval.level) / 2)
    reach = (quantile + normal.inv_cdf(_POWER)) / quantile
    needed = interval.clusters * (reach * half / abs(interval.value)) ** 2
    return max(math.ceil(needed), interval.clusters + 1) if needed < _MOST else None


def _against_chance(share: Mapping[str, Any]) -> str:
    if share["low"] > 0.5:
        return "more often than a coin would"
    if share["high"] < 0.5:
        return "less often than a coin would"
    return "that cannot be told from a coin at this size"


def _counted(interval: Mapping[str, Any]) -> str:
    pairs, prompts = interval["n"], interval["clusters"]
    counted = f"{pairs:,} held-out pair{'s' * (pairs != 1)}"
    return counted if pairs == prompts else f"{counted} over {prompts:,} prompts"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _range(share: Mapping[str, Any]) -> str:
    return f"95 % interval {100 * share['low']:.1f} to {100 * share['high']:.1f}"


def _points(change: Mapping[str, Any]) -> str:
    return f"{100 * change['low']:+.1f} to {100 * change['high']:+.1f}"
