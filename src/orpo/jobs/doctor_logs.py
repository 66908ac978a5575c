"""What a run wrote down as it went: recipe, metrics, events, and the pages made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo.errors import DataError
from orpo.runs import (
    EVALUATION,
    EVENTS,
    METRICS,
    RECIPE,
    REPORT,
    SAMPLES,
    parse_json,
    read_object,
    read_recipe,
)

__all__ = ["Events", "Logged", "examine_events", "examine_metrics", "examine_pages", "try_recipe"]

_LAST_EVENTS = 5


@dataclass
class Logged:
    """The metrics file.

    Attributes:
        lines: Whole lines.
        steps: Training steps that were logged.
        last_step: The last of them.
        torn: Whether the last line was cut off, as a kill does.
        damage: A line that cannot be read, in words.
        gaps: Pairs of logged steps between which others should stand.
        backwards: Steps that come after a later one, or twice.
        not_finite: Steps whose loss is NaN or infinite.
    """

    lines: int = 0
    steps: int = 0
    last_step: int | None = None
    torn: bool = False
    damage: str | None = None
    gaps: list[tuple[int, int]] = field(default_factory=list)
    backwards: list[int] = field(default_factory=list)
    not_finite: list[int] = field(default_factory=list)


@dataclass
class Events:
    """What happened beside the steps.

    Attributes:
        count: All of them.
        last: The last few, as they were written.
        broken: Lines that a kill cut off.
    """

    count: int = 0
    last: list[dict[str, Any]] = field(default_factory=list)
    broken: int = 0


def try_recipe(folder: Path) -> tuple[dict[str, Any], str | None]:
    """The recipe, and what is wrong with it, if anything is."""
    if not (folder / RECIPE).is_file():
        return {}, f"{RECIPE} is missing"
    try:
        recipe = read_recipe(folder)
    except (DataError, OSError) as error:
        reason = error.what if isinstance(error, DataError) else str(error)
        return {}, f"{RECIPE}: {' '.join(reason.split())}"
    return recipe, None if recipe else f"{RECIPE} holds no settings"


def examine_metrics(folder: Path, recipe: dict[str, Any], max_steps: int | None) -> Logged:
    """Read the metrics line by line.

    Args:
        folder: The run folder.
        recipe: Says how often is logged.
        max_steps: Of the run, if it is known.
    """
    rows, broken, ends_cut, damage = _lines(folder / METRICS)
    found = Logged(lines=len(rows), torn=ends_cut, damage=damage)
    if broken and damage is None:
        found.damage = f"{METRICS}:{broken[0]} cannot be read"
    trained = [row for row in rows if "loss" in row and isinstance(row.get("step"), int)]
    steps = [row["step"] for row in trained]
    found.steps, found.last_step = len(steps), max(steps, default=None)
    found.not_finite = [row["step"] for row in trained if not _is_number(row["loss"])]
    pairs = list(zip([0, *steps], steps, strict=False))
    found.backwards = [after for before, after in pairs if after <= before]
    every = _every(recipe, max_steps)
    if every is not None:
        found.gaps = [(before, after) for before, after in pairs if after - before > every]
    return found


def examine_events(folder: Path) -> Events:
    """Read the events; a run that goes on after a kill may have a broken line in the middle."""
    rows, broken, ends_cut, _ = _lines(folder / EVENTS, "replace")
    return Events(len(rows), rows[-_LAST_EVENTS:], len(broken) + ends_cut)


def examine_pages(folder: Path) -> dict[str, str | None]:
    """Name of what is made of a run, if it is there -> what is wrong with it."""
    found: dict[str, str | None] = {}
    if (folder / EVALUATION).is_file():
        found[EVALUATION] = _broken_json(folder / EVALUATION)
    if (folder / SAMPLES).is_file():
        _, broken, ends_cut, damage = _lines(folder / SAMPLES)
        cut = f"{SAMPLES}: line {broken[0]} cannot be read" if broken else None
        found[SAMPLES] = damage or cut or (f"{SAMPLES} was cut off" if ends_cut else None)
    if (folder / REPORT).is_file():
        text = (folder / REPORT).read_bytes()
        whole = text.rstrip().endswith(b"</html>")
        found[REPORT] = None if whole else f"{REPORT} was cut off: draw it again with orpo report"
    return found


def _lines(
    path: Path, undecodable: str = "strict"
) -> tuple[list[dict[str, Any]], list[int], bool, str | None]:
    """Objects, numbers of broken lines, whether the last was cut off, and other damage."""
    if not path.is_file():
        return [], [], False, None
    try:
        lines = path.read_text(encoding="utf-8", errors=undecodable).split("\n")
    except (OSError, UnicodeDecodeError) as error:
        return [], [], False, f"{path.name} cannot be read ({error})"
    rows: list[dict[str, Any]] = []
    broken: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            rows.append(value)
        else:
            broken.append(number)
    torn = broken[-1:] == [len(lines)]  # no line end after it: it was being written
    return rows, broken[:-1] if torn else broken, torn, None


def _every(recipe: dict[str, Any], max_steps: int | None) -> int | None:
    """Steps between two logs; None if that cannot be told."""
    every = recipe.get("logging_steps")
    if recipe.get("logging_strategy") != "steps" or not isinstance(every, int | float):
        return None
    if every >= 1:
        return int(every)
    return math.ceil(max_steps * every) if max_steps else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _broken_json(path: Path) -> str | None:
    try:
        read_object(path)
    except DataError as error:
        return f"{path.name} cannot be read ({error.what})"
    return None
