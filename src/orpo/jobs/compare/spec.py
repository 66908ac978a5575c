"""What one process of a comparison is told, and what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orpo.runs import read_jsonl, read_object, write_json, write_jsonl

__all__ = ["COST", "OUTCOMES", "CellSpec", "HeldOut", "TaskSpec", "finished", "write_finished"]

COST = "cost.json"
OUTCOMES = "outcomes.jsonl"


@dataclass(frozen=True)
class HeldOut:
    """How a model is put to the test.

    Attributes:
        dataset: File of held-out pairs.
        answers: Prompts to answer.
        answer_tokens: Longest answer.
        checker: `module:function` that checks an answer; empty for none.
    """

    dataset: str
    answers: int
    answer_tokens: int
    checker: str = ""


@dataclass(frozen=True)
class CellSpec:
    """A short run of the sensitivity grid.

    Attributes:
        name: Of its result's file.
        settings: Fields of `ORPOConfig` that differ from the task's.
        dataset: File or name of its training data.
        start: Name of an earlier cell of the same task whose model it starts from; else the base.
    """

    name: str
    settings: Mapping[str, Any]
    dataset: str
    start: str = ""


@dataclass(frozen=True)
class TaskSpec:
    """One process.

    Attributes:
        kind: "stage" (train, and measure if there is something held out), "base" (measure only)
            or "grid" (some short runs).
        folder: What it writes; for a stage also its run folder.
        job: Fields of `TrainJob`.
        settings: Fields of `ORPOConfig`.
        held_out: The test; None for a stage that another follows.
        cells: Of a grid.
    """

    kind: str
    folder: str
    job: Mapping[str, Any]
    settings: Mapping[str, Any]
    held_out: HeldOut | None = None
    cells: tuple[CellSpec, ...] = field(default_factory=tuple)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, and to compare with one that was read from JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def read(cls, path: Path) -> TaskSpec:
        """Read what `as_dict` gave."""
        values = read_object(path)
        held_out = values.pop("held_out")
        cells = tuple(CellSpec(**cell) for cell in values.pop("cells"))
        return cls(**values, held_out=HeldOut(**held_out) if held_out else None, cells=cells)


def write_finished(spec: TaskSpec, found: dict[str, Any], outcomes: list[dict[str, Any]]) -> None:
    """Put a finished task on record: the outcomes, and then what it cost beside its spec."""
    folder = Path(spec.folder)
    write_jsonl(folder / OUTCOMES, outcomes)
    write_json(folder / COST, {"spec": spec.as_dict(), "found": found})


def finished(spec: TaskSpec) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """What a task left behind; None if it was not finished, or was told something else."""
    folder = Path(spec.folder)
    try:
        record = read_object(folder / COST)
        if record["spec"] != spec.as_dict():
            return None
        return record["found"], read_jsonl(folder / OUTCOMES)
    except (OSError, ValueError, KeyError, TypeError):
        return None
