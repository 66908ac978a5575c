"""The benchmark's files: instructions, the baseline's answers, length control, the leaderboard.

They come from a folder, or from where their authors keep them, fetched once. None of their text is
part of this library.
"""

from __future__ import annotations

import csv
import hashlib
import re
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from orpo.data.sources import default_cache
from orpo.errors import DataError
from orpo.evaluate.results import Entry, Leaderboard, WinRate
from orpo.evaluate.win_rates.judged import LengthControl
from orpo.evaluate.win_rates.rates import difficulties
from orpo.runs.reading import parse_json
from orpo.runs.writing import write_bytes

HUB = "tatsu-lab/alpaca_eval"
"""Data set of the Hub with the official files, but for the leaderboard."""

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
_IN_PACKAGE = "leaderboards/data_AlpacaEval_2/weighted_alpaca_eval_gpt4_turbo_leaderboard.csv"
_LARGEST = 8 * 2**20  # bytes; the file has some twenty thousand
_GITHUB = (
    f"https://raw.githubusercontent.com/tatsu-lab/alpaca_eval/main/src/alpaca_eval/{_IN_PACKAGE}"
)
_NEAR = 5  # published results on each side


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
    def control(self) -> LengthControl | None:
        """What length control needs; None where a file of it is missing."""
        if self.difficulty is None or self.gamed is None:
            return None
        return LengthControl(self.difficulty, self.gamed)

    def place_of(self, rate: WinRate) -> Leaderboard | None:
        """Where a win rate would stand among the published ones, and who stands beside it."""
        own = rate.lc_win_rate
        if own is None or not self.leaderboard:
            return None
        above = sum(entry.lc_win_rate > own for entry in self.leaderboard)
        near = self.leaderboard[max(0, above - _NEAR) : above + _NEAR]
        return Leaderboard(above + 1, len(self.leaderboard), near)


def complaint(missing: Mapping[str, str]) -> str:
    """One line about files that are not there, what they are for, and why."""
    reasons = list(dict.fromkeys(missing.values()))
    parts = []
    for reason in reasons:
        names = [f"{name} for {_FOR[name]}" for name, why in missing.items() if why == reason]
        parts.append(f"{', '.join(names)} ({reason})")
    return f"not there: {'; '.join(parts)}"


def read_benchmark(data: str | Path = HUB) -> Benchmark:
    """The benchmark from a folder with the official files, or from the Hub.

    Raises:
        DataError: There is no such folder, or a file is broken. Files that are missing are no
            error: see `Benchmark.missing`.
    """
    found, missing = _located(str(data))
    return Benchmark(
        baseline=_baseline(found[BASELINE]) if BASELINE in found else None,
        difficulty=_difficulty(found[DIFFICULTY]) if DIFFICULTY in found else None,
        gamed=_gamed(found[GAMED]) if GAMED in found else None,
        leaderboard=read_leaderboard(found[LEADERBOARD]) if LEADERBOARD in found else (),
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
    return _fetched(data)


def _fetched(repo: str) -> tuple[dict[str, Path], dict[str, str]]:
    """The same of a data set of the Hub, and the leaderboard, which is not in it."""
    found: dict[str, Path] = {}
    missing: dict[str, str] = {}
    for name in _FOR:
        try:
            found[name] = _leaderboard() if name == LEADERBOARD else _from_hub(repo, name)
        except Exception as error:  # whatever the Hub's client raises, nothing came
            missing[name] = _reason(error)
    return found, missing


def _from_hub(repo: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - seconds to load

    return Path(hf_hub_download(repo, name, repo_type="dataset"))


def _leaderboard() -> Path:
    spec = find_spec("alpaca_eval")  # found, not imported: its imports are many and old
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / _IN_PACKAGE).is_file():
            return Path(place) / _IN_PACKAGE
    kept = default_cache() / "alpaca_eval" / "leaderboard.csv"
    if not kept.is_file():
        from huggingface_hub.constants import HF_HUB_OFFLINE  # noqa: PLC0415 - seconds to load

        if HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        with urllib.request.urlopen(_GITHUB, timeout=30) as answer:
            content: bytes = answer.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise OSError(f"more than {_LARGEST:,} bytes came")
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(kept, content)
    return kept


def _reason(error: Exception) -> str:
    if type(error).__name__ in {"LocalEntryNotFoundError", "OfflineModeIsEnabled"}:
        return "not in the cache, and the Hub cannot be reached"
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__


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
    """(place, row) of a JSON file that holds a list of objects."""
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


def read_leaderboard(path: Path) -> tuple[Entry, ...]:
    """Published results, the best length-controlled win rate first."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        entries = [
            Entry(
                next(iter(row.values())),
                float(row["length_controlled_winrate"]),
                float(row["win_rate"]),
                float(row["avg_length"]),
            )
            for row in rows
            if row["length_controlled_winrate"]
        ]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError) as error:
        fix = "Give the official weighted_alpaca_eval_gpt4_turbo leaderboard as leaderboard.csv."
        raise DataError(f"is no leaderboard ({error})", where=str(path), fix=fix) from error
    return tuple(sorted(entries, key=lambda entry: -entry.lc_win_rate))
