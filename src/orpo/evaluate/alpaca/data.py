"""The benchmark's files: instructions with the baseline's answers, and what length control needs.

None of their text is part of this library.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo.errors import DataError
from orpo.evaluate.alpaca.fetching import fetched
from orpo.evaluate.alpaca.leaderboard import Entry, read_leaderboard
from orpo.evaluate.win_rates.types import difficulties
from orpo.runs import parse_json

__all__ = [
    "BASELINE",
    "DIFFICULTY",
    "GAMED",
    "HUB",
    "LEADERBOARD",
    "Benchmark",
    "complaint",
    "read_benchmark",
]

HUB = "tatsu-lab/alpaca_eval"
"""Data set of the Hub with the official files."""

BASELINE = "alpaca_eval_gpt4_baseline.json"
DIFFICULTY = "instruction_difficulty.csv"
GAMED = "df_gamed.csv"
LEADERBOARD = "leaderboard.csv"

_GAMED_COLUMNS = ("preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline")
_FOR = {
    BASELINE: "the instructions and the baseline's answers",
    DIFFICULTY: "length control",
    GAMED: "length control",
    LEADERBOARD: "the published neighbours",
}


@dataclass(frozen=True)
class Baseline:
    """The evaluation set.

    Attributes:
        name: The baseline's, as its outputs say.
        instructions: In the order of the file, which is what an index counts.
        outputs: The baseline's answers.
        datasets: Where each instruction comes from, such as "vicuna".
    """

    name: str
    instructions: tuple[str, ...]
    outputs: tuple[str, ...]
    datasets: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """What there is of the benchmark.

    Attributes:
        baseline: The evaluation set, or None.
        difficulty: Index -> difficulty of the instruction, or None.
        gamed: Columns of the regularisation rows, or None.
        leaderboard: Published results, best first; may be empty.
        sources: File -> {"from", "sha256"}.
        missing: File -> why it is not there.
    """

    baseline: Baseline | None = None
    difficulty: Mapping[int, float] | None = None
    gamed: Mapping[str, Sequence[Any]] | None = None
    leaderboard: tuple[Entry, ...] = ()
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_length_control(self) -> bool:
        """Whether both files of the length-controlled model are there."""
        return self.difficulty is not None and self.gamed is not None


def complaint(missing: Mapping[str, str]) -> str:
    """One line about files that are not there, what they are for, and why.

    Args:
        missing: File -> why it is not there.
    """
    reasons = list(dict.fromkeys(missing.values()))
    parts = []
    for reason in reasons:
        names = [f"{name} for {_FOR[name]}" for name, why in missing.items() if why == reason]
        parts.append(f"{', '.join(names)} ({reason})")
    return f"not there: {'; '.join(parts)}"


def read_benchmark(data: str | Path = HUB) -> Benchmark:
    """The benchmark from a folder, or from the Hub.

    Args:
        data: A folder with the official files, or a data set's id on the Hub. The leaderboard is
            not on the Hub; it comes from the installed `alpaca-eval` package or from GitHub.

    Raises:
        DataError: There is no such folder, or a file is broken. Files that are missing are no
            error: see `Benchmark.missing`.
    """
    found, missing = _located(str(data))
    baseline = _baseline(found[BASELINE]) if BASELINE in found else None
    difficulty = _difficulty(found[DIFFICULTY]) if DIFFICULTY in found else None
    gamed = _gamed(found[GAMED]) if GAMED in found else None
    leaderboard = read_leaderboard(found[LEADERBOARD]) if LEADERBOARD in found else ()
    return Benchmark(
        baseline,
        difficulty,
        gamed,
        leaderboard,
        sources={
            name: {"from": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for name, path in found.items()
        },
        missing=missing,
    )


def _located(data: str) -> tuple[dict[str, Path], dict[str, str]]:
    """(file -> path, file -> why it is not there)."""
    folder = Path(data)
    if folder.is_dir():
        found = {name: folder / name for name in _FOR if (folder / name).is_file()}
        return found, {name: "not in the folder" for name in _FOR if name not in found}
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", data) or data.startswith("."):
        raise DataError(
            "no such folder", where=data, fix=f"Give a folder with {BASELINE}, or {HUB!r}."
        )
    return fetched(data, [BASELINE, DIFFICULTY, GAMED], LEADERBOARD)


def _baseline(path: Path) -> Baseline:
    rows = read_rows(path)
    for where, row in rows:
        for name in ("instruction", "output"):
            if not isinstance(row.get(name), str):
                raise DataError(f"no text in {name!r}", where=where, fix="Give the official file.")
    if not rows:
        raise DataError("holds no instruction", where=str(path), fix="Give the official file.")
    names = {str(row.get("generator") or "baseline") for _, row in rows}
    return Baseline(
        name=", ".join(sorted(names)),
        instructions=tuple(row["instruction"] for _, row in rows),
        outputs=tuple(row["output"] for _, row in rows),
        datasets=tuple(str(row.get("dataset") or "") for _, row in rows),
    )


def read_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(place, row) of a JSON file that holds a list of objects.

    Raises:
        DataError: It is missing or something else.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except ValueError as error:
        raise DataError(f"is no JSON ({error})", where=str(path), fix="Repair it.") from error
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        fix = 'Give a list of {"instruction", "output", ...}, as the official tool writes it.'
        raise DataError("is no list of objects", where=str(path), fix=fix)
    return [
        (f"{path}, entry {number}", {name: _whole(value) for name, value in row.items()})
        for number, row in enumerate(content)
    ]


def _whole(value: Any) -> Any:
    """A text without halves of characters, which JSON can hold and no file can; else as it is."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _difficulty(path: Path) -> dict[int, float]:
    rows = list(_table(path))
    try:  # the official file's first column has no name
        return difficulties({int(next(iter(row.values()))): _last(row) for row in rows})
    except ValueError as error:
        fix = "Give index and instruction_difficulty."
        raise DataError(f"not a number ({error})", where=str(path), fix=fix) from error


def _last(row: Mapping[str, str]) -> float:
    return float(row.get("instruction_difficulty") or list(row.values())[-1])


def _gamed(path: Path) -> dict[str, list[Any]]:
    rows = list(_table(path))
    columns: dict[str, list[Any]] = {}
    for name in _GAMED_COLUMNS:
        if not rows or name not in rows[0]:
            fix = f"Give the official file, with {', '.join(_GAMED_COLUMNS)}."
            raise DataError(f"no column {name!r}", where=str(path), fix=fix)
        columns[name] = [row[name] for row in rows]
    return columns


def _table(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from csv.DictReader(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read ({error})", where=str(path)) from error
