"""What the run cost: time, counted work, memory; only what was recorded."""

from __future__ import annotations

import math
from typing import Any

from orpo.report.values import as_count, as_duration, as_number, mapping, number, whole
from orpo.runs import Run, read_object

__all__ = ["WORK", "costs"]

WORK = "work.json"


def costs(run: Run) -> list[tuple[str, str]]:
    """(label, value) of what is known."""
    totals, work = _totals(run), _work(run)
    seconds, flops = number(totals.get("train_runtime")), number(work.get("flops"))
    entries = [
        ("Training time", as_duration(seconds) if seconds and _usable(seconds) else ""),
        ("Operations", f"{_short(flops)}FLOP" if flops and _usable(flops) else _estimate(totals)),
        ("Pairs", _counted(work, "pairs", "pair")),
        ("Forward passes per pair", _number(work, "passes_per_pair")),
        ("Positions trained", _counted(work, "positions_trained", "")),
        ("Positions scored", _counted(work, "positions_scored", "")),
        ("Tokens per second", _speed(run)),
        ("Peak memory", _memory(totals, work)),
        ("Processes", str(whole(_facts(run).get("world_size")) or "")),
    ]
    return [(label, value) for label, value in entries if value]


def _facts(run: Run) -> dict[str, Any]:
    return mapping(mapping(run.recipe).get("_run"))


def _totals(run: Run) -> dict[str, Any]:
    lines = (mapping(line) for line in reversed(run.metrics))
    return next((line for line in lines if "train_runtime" in line), {})


def _work(run: Run) -> dict[str, Any]:
    """What was counted, if the file is there and whole."""
    try:
        return mapping(read_object(run.path / WORK))
    except (OSError, ValueError):
        return {}


def _usable(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and 0 < value < 1e40


def _estimate(totals: dict[str, Any]) -> str:
    value = number(totals.get("total_flos"))
    return f"about {_short(value)}FLOP" if value and _usable(value) else ""


def _short(value: float) -> str:
    """554 G, 1.2 P: three digits and a unit."""
    power = min(6, max(0, int(math.log10(value) // 3)))
    return f"{value / 1000**power:.3g}\u00a0{('', 'k', 'M', 'G', 'T', 'P', 'E')[power]}"


def _counted(work: dict[str, Any], name: str, noun: str) -> str:
    count = whole(work.get(name))
    if not count:
        return ""
    return as_count(count, noun) if noun else f"{count:,}"


def _number(work: dict[str, Any], name: str) -> str:
    value = number(work.get(name))
    return as_number(round(value, 2)) if value is not None and _usable(value) else ""


def _speed(run: Run) -> str:
    """The median of what was logged."""
    found = [number(mapping(line).get("tokens_per_second")) for line in run.metrics]
    speeds = sorted(speed for speed in found if speed is not None and _usable(speed))
    return as_number(round(speeds[len(speeds) // 2])) if speeds else ""


def _memory(*places: dict[str, Any]) -> str:
    for place in places:
        for name in ("peak_bytes", "peak_memory_bytes"):
            value = number(place.get(name))
            if value is not None and _usable(value):
                return f"{value / 2**30:.2f}\u00a0GiB"
    return ""
