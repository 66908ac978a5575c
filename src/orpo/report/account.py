"""What went into the run: its rows, its settings, its versions."""

from __future__ import annotations

import json
from dataclasses import dataclass

from orpo.report.values import (
    as_count,
    as_duration,
    as_number,
    lasting,
    mapping,
    number,
    rows,
    sentence,
    visible,
    whole,
)
from orpo.report.words import progress
from orpo.runs import Run, short_name

__all__ = ["Dataset", "Drop", "datasets", "events", "facts", "notes", "settings", "versions"]

_LONGEST = 400


@dataclass(frozen=True)
class Drop:
    """Rows that were dropped for one reason, with the first places to look."""

    reason: str
    count: int
    places: list[str]


@dataclass(frozen=True)
class Dataset:
    """What became of the rows of one data set.

    Attributes:
        name: What the rows were read for.
        format: How they were recognised and rendered.
        rows_in: Rows read.
        kept: Pairs used.
        dropped: By reason, most frequent first.
        cut: Pairs of which something was cut, in words; may be empty.
        adds_up: rows_in == kept + dropped.
    """

    name: str
    format: str
    rows_in: int
    kept: int
    dropped: list[Drop]
    cut: str
    adds_up: bool


def datasets(run: Run) -> list[Dataset]:
    """The accounts of all data sets of the run."""
    return [_dataset(name, mapping(one)) for name, one in mapping(_facts(run).get("data")).items()]


def _dataset(name: str, account: dict[str, object]) -> Dataset:
    examples = mapping(account.get("dropped_examples"))
    dropped = [
        Drop(reason, n, [_place(mapping(one)) for one in rows(examples.get(reason))])
        for reason, value in mapping(account.get("dropped")).items()
        if (n := whole(value))
    ]
    dropped.sort(key=lambda drop: -drop.count)
    rows_in, kept = whole(account.get("rows_in")) or 0, whole(account.get("kept")) or 0
    cut = mapping(account.get("cut"))
    return Dataset(
        name,
        ", ".join(str(account[key]) for key in ("format", "rendering") if account.get(key)),
        rows_in,
        kept,
        dropped,
        ", ".join(f"{part} in {as_count(n, 'pair')}" for part, v in cut.items() if (n := whole(v))),
        rows_in == kept + sum(drop.count for drop in dropped),
    )


def _place(example: dict[str, object]) -> str:
    parts = [str(example[key]) for key in ("where", "detail") if example.get(key)]
    return lasting(": ".join(parts), _LONGEST)


def notes(run: Run) -> list[str]:
    """What was decided on the user's behalf."""
    return [lasting(str(note), _LONGEST) for note in rows(_facts(run).get("notes"))]


def events(run: Run) -> list[tuple[str, str]]:
    """What happened beside the steps: the step, and what it was, in words."""
    return [
        (
            str(event.get("step", "")),
            sentence(lasting(visible(str(event.get("message", ""))), _LONGEST)),
        )
        for event in run.events
    ]


def versions(run: Run) -> dict[str, str]:
    """Package -> version."""
    return {name: str(found) for name, found in mapping(_facts(run).get("versions")).items()}


def settings(run: Run) -> list[tuple[str, str]]:
    """Every setting as resolved, under its name."""
    return [
        (name, _setting(value)) for name, value in mapping(run.recipe).items() if name != "_run"
    ]


def facts(run: Run) -> list[tuple[str, str]]:
    """The run in a few entries: model, data, steps, time."""
    recipe, found = run.recipe, _facts(run)
    entries = [
        ("Model", short_name(recipe.get("model"))),
        ("Data", _data(run)),
        ("Objective", _objective(recipe)),
        ("Steps", _steps(run)),
        ("Time", _time(run)),
        ("Parameters", _parameters(found)),
        ("Engine", str(found.get("engine") or "")),
    ]
    return [(name, lasting(value, 200)) for name, value in entries if value]


def _facts(run: Run) -> dict[str, object]:
    return mapping(run.recipe.get("_run"))


def _data(run: Run) -> str:
    named = run.recipe.get("dataset")
    name = " + ".join(map(short_name, named if isinstance(named, list) else [named]))
    kept = [one.kept for one in datasets(run) if one.name == "train_dataset"]
    pairs = as_count(kept[0], "pair") if kept and kept[0] else ""
    return f"{name} ({pairs})" if name and pairs else name or pairs


def _objective(recipe: dict[str, object]) -> str:
    alpha, beta = number(recipe.get("orpo_alpha")), number(recipe.get("orpo_beta"))
    if alpha is None:
        return ""
    return f"ORPO, α = {as_number(alpha)}" + (
        f", β = {as_number(beta)}" if beta is not None else ""
    )


def _steps(run: Run) -> str:
    state = progress(run)
    if state.step is None:
        return ""
    if state.finished or not state.planned:
        return f"{state.step:,}"
    return f"{state.step:,} of {state.planned:,}"


def _time(run: Run) -> str:
    for line in reversed(run.metrics):
        seconds = number(mapping(line).get("train_runtime"))
        if seconds is not None and 0 <= seconds < 1e9:
            return as_duration(seconds)
    return ""


def _parameters(found: dict[str, object]) -> str:
    total, trained = whole(found.get("parameters")), whole(found.get("trainable_parameters"))
    if not total:
        return ""
    if trained is None or trained == total:
        return _size(total)
    return f"{_size(total)}, {_size(trained)} trained"


def _size(count: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def _setting(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return lasting(str(value), _LONGEST)
    return lasting(json.dumps(value, ensure_ascii=False, default=str), _LONGEST)
