"""AlpacaEval 2: instructions, the baseline's answers, length control, outputs, the leaderboard.

Outputs are joined to instructions by text: texts that differ in white space, in quotation marks or
in how Unicode writes a letter are the same instruction.
"""

import csv
import gzip
import io
import json
import re
import unicodedata
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from orpo.data.sources import default_cache
from orpo.errors import DataError
from orpo.evaluate.judged import JudgedPair, LengthControl, rates_of
from orpo.evaluate.published import from_address, from_hub, reason, source_of
from orpo.evaluate.questions import Answered, Question
from orpo.evaluate.results import AlpacaRates, Entry, Leaderboard
from orpo.runs.reading import read_json
from orpo.runs.writing import write_text

HUB = "tatsu-lab/alpaca_eval"
"""Data set of the Hub with the official files, but for the leaderboard."""
BASELINE, DIFFICULTY, GAMED, LEADERBOARD = (
    "alpaca_eval_gpt4_baseline.json",
    "instruction_difficulty.csv",
    "df_gamed.csv",
    "leaderboard.csv",
)
OUTPUTS = "model_outputs.json"
"""What the official tool calls the file."""
OFFICIAL_ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"

_GAMED_COLUMNS = ("preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline")
_FOR = {
    BASELINE: "the instructions and the baseline's answers",
    DIFFICULTY: "length control",
    GAMED: "length control",
    LEADERBOARD: "the published neighbours",
}
_IN_PACKAGE = f"leaderboards/data_AlpacaEval_2/{OFFICIAL_ANNOTATOR}_leaderboard.csv"
_GITHUB = "https://raw.githubusercontent.com/tatsu-lab/alpaca_eval/main/src/alpaca_eval/"
_NEAR = 5  # published results on each side
_QUOTES = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014", "''\"\"--")
_LEFT_OUT = {
    "again": "further outputs to the same instruction",
    "foreign": "outputs to other instructions",
}
_UNPLACED = (
    "no length control: it needs the difficulty of each instruction, rows are missing, and nothing "
    "in the file says which instruction a row is of"
)


@dataclass(frozen=True)
class Baseline:
    """The evaluation set; an index is a place in it."""

    name: str  # as its outputs say
    instructions: tuple[str, ...]
    outputs: tuple[str, ...]
    datasets: tuple[str, ...]  # where each instruction comes from, such as "vicuna"

    @property
    def questions(self) -> list[Question]:
        """The instructions; ids are their indexes."""
        each = enumerate(zip(self.instructions, self.datasets, strict=True))
        return [Question(str(index), (text,), category=name) for index, (text, name) in each]


@dataclass(frozen=True)
class Benchmark:
    """What there is of the benchmark."""

    baseline: Baseline | None = None
    control: LengthControl | None = None  # None where a file of it is missing
    leaderboard: tuple[Entry, ...] = ()  # best first
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # see results.Sources
    missing: Mapping[str, str] = field(default_factory=dict)  # file -> why it is not there

    def rates(self, pairs: Sequence[JudgedPair], *, placed: bool = True) -> AlpacaRates:
        """What pairs say together; why it is not length-controlled, and where it would stand."""
        control = self.control if placed else None
        found = rates_of(pairs, control)
        rate = found.win_rate
        if control is None:
            missing = " and ".join(name for name in (DIFFICULTY, GAMED) if name in self.missing)
            why = f"no length control without {missing}" if missing else _UNPLACED
            rate = replace(rate, note=why)
        place = self.place_of(rate.lc_win_rate)
        return AlpacaRates(**{**vars(found), "win_rate": rate}, leaderboard=place)

    def place_of(self, lc_win_rate: float | None) -> Leaderboard | None:
        """Where a win rate would stand among the published ones, and who stands beside it."""
        if lc_win_rate is None or not self.leaderboard:
            return None
        above = sum(entry.lc_win_rate > lc_win_rate for entry in self.leaderboard)
        near = self.leaderboard[max(0, above - _NEAR) : above + _NEAR]
        return Leaderboard(above + 1, len(self.leaderboard), near)


def complaint(missing: Mapping[str, str]) -> str:
    """One line about files that are not there, what they are for, and why."""
    parts = []
    for why in dict.fromkeys(missing.values()):
        names = [f"{name} for {_FOR[name]}" for name, own in missing.items() if own == why]
        parts.append(f"{', '.join(names)} ({why})")
    return f"not there: {'; '.join(parts)}"


def read_benchmark(data: str = HUB) -> Benchmark:
    """The benchmark from a folder with the official files, or from the Hub.

    Raises a DataError where there is no such folder, or a file is broken; files that are missing
    are no error: see `Benchmark.missing`.
    """
    found, missing = _located(data)
    difficulty = _difficulty(found[DIFFICULTY]) if DIFFICULTY in found else None
    gamed = _gamed(found[GAMED]) if GAMED in found else None
    known = difficulty is not None and gamed is not None
    return Benchmark(
        baseline=_baseline(found[BASELINE]) if BASELINE in found else None,
        control=LengthControl(difficulty, gamed) if known else None,
        leaderboard=_leaderboard(found[LEADERBOARD]) if LEADERBOARD in found else (),
        sources={name: source_of(path) for name, path in found.items()},
        missing=missing,
    )


def _located(data: str) -> tuple[dict[str, Path], dict[str, str]]:
    """(file -> path, file -> why it is not there)."""
    folder, found, missing = Path(data), dict[str, Path](), dict[str, str]()
    if not folder.is_dir() and (not re.fullmatch(r"[\w.-]+/[\w.-]+", data) or data[0] == "."):
        fix = f"Give a folder with {BASELINE}, or {HUB!r}."
        raise DataError("no such folder", where=data, fix=fix)
    for name in _FOR:
        try:
            if not folder.is_dir():
                found[name] = (
                    _published() if name == LEADERBOARD else from_hub(data, name, "dataset")
                )
            elif (folder / name).is_file():
                found[name] = folder / name
            else:
                missing[name] = "not in the folder"
        except Exception as error:  # whatever the Hub's client raises, nothing came
            missing[name] = reason(error)
    return found, missing


def _published() -> Path:
    """The leaderboard, which is in no data set of the Hub."""
    spec = find_spec("alpaca_eval")  # found, not imported: its imports are many and old
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / _IN_PACKAGE).is_file():
            return Path(place) / _IN_PACKAGE
    return from_address(_GITHUB + _IN_PACKAGE, default_cache() / "alpaca_eval" / "leaderboard.csv")


def _baseline(path: Path) -> Baseline:
    rows = read_rows(path, "instruction", "output", fix="Give the official file.")
    if not rows:
        raise DataError("holds no instruction", where=str(path), fix="Give the official file.")
    names = {str(row.get("generator") or "baseline") for _, row in rows}
    return Baseline(
        name=", ".join(sorted(names)),
        instructions=tuple(row["instruction"] for _, row in rows),
        outputs=tuple(row["output"] for _, row in rows),
        datasets=tuple(str(row.get("dataset") or "") for _, row in rows),
    )


def read_rows(path: Path, *texts: str, fix: str = "") -> list[tuple[str, dict[str, Any]]]:
    """(place, row) of a JSON file that holds a list of objects, in which these are texts."""
    try:
        content = read_json(path)
    except DataError as error:
        raise DataError(error.what, where=error.where, fix="Give or repair it.") from error
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        fix = 'Give a list of {"instruction", "output", ...}, as the official tool writes it.'
        raise DataError("is no list of objects", where=str(path), fix=fix)
    rows = [
        (f"{path}, entry {number}", {name: _whole(value) for name, value in row.items()})
        for number, row in enumerate(content)
    ]
    for where, row in rows:
        for name in texts:
            if not isinstance(row.get(name), str):
                raise DataError(f"no text in {name!r}", where=where, fix=fix)
    return rows


def _whole(value: Any) -> Any:
    """A text without halves of characters, which JSON can hold and no file can; else as it is."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _difficulty(path: Path) -> dict[int, float]:
    found: dict[int, float] = {}
    try:
        for row in read_table(path):  # the official file's first column has no name
            first, *_, last = row.values()
            found[int(first)] = float(row.get("instruction_difficulty") or last)
    except ValueError as error:
        fix = "Give index and instruction_difficulty."
        raise DataError(f"not a number ({error})", where=str(path), fix=fix) from error
    return found


def _gamed(path: Path) -> dict[str, list[Any]]:
    rows = read_table(path)
    for name in _GAMED_COLUMNS:
        if not rows or name not in rows[0]:
            fix = f"Give the official file, with {', '.join(_GAMED_COLUMNS)}."
            raise DataError(f"no column {name!r}", where=str(path), fix=fix)
    return {name: [row[name] for row in rows] for name in _GAMED_COLUMNS}


def _leaderboard(path: Path) -> tuple[Entry, ...]:
    columns = ("length_controlled_winrate", "win_rate", "avg_length")
    try:
        entries = [
            Entry(next(iter(row.values())), *(float(row[name]) for name in columns))
            for row in read_table(path)
            if row[columns[0]]
        ]
    except (KeyError, ValueError, TypeError) as error:
        fix = "Give the official weighted_alpaca_eval_gpt4_turbo leaderboard as leaderboard.csv."
        raise DataError(f"is no leaderboard ({error})", where=str(path), fix=fix) from error
    return tuple(sorted(entries, key=lambda entry: -entry.lc_win_rate))


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file, gz too."""
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
        return list(csv.DictReader(io.StringIO(text, newline="")))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read ({error})", where=str(path)) from error


def write_outputs(answered: Sequence[Answered], generator: str, path: Path) -> None:
    """Write answers as the official tool reads them."""
    rows = [
        {
            "dataset": one.question.category,
            "instruction": one.question.turns[0],
            "output": one.turns[0],
            "generator": generator,
            "datasplit": "eval",
        }
        for one in answered
    ]
    write_text(path, json.dumps(rows, ensure_ascii=False, indent=2) + "\n")


def read_outputs(path: Path, instructions: Sequence[str]) -> tuple[dict[int, str], dict[str, int]]:
    """(index of the instruction -> output, why outputs are not among these -> how many)."""
    fix = "Give a text for each, as the official tool does."
    rows = read_rows(path, "instruction", "output", fix=fix)
    places = places_of([row["instruction"] for _, row in rows], instructions)
    each = zip(places, rows, strict=True)
    found = {place: str(row["output"]) for place, (_, row) in each if isinstance(place, int)}
    if not found:
        raise DataError(
            f"none of its {len(rows)} instructions is in the evaluation set",
            where=str(path),
            fix="Give the outputs for these instructions.",
        )
    return found, dict(Counter(_LEFT_OUT[one] for one in places if isinstance(one, str)))


def places_of(
    texts: Sequence[str], instructions: Sequence[str]
) -> list[int | Literal["again", "foreign"]]:
    """For each text the index of its instruction; one that is there twice takes texts in turn.

    "again" is a text whose instruction is taken by an earlier one, "foreign" one of none.
    """
    waiting: dict[str, deque[int]] = defaultdict(deque)
    for index, text in enumerate(instructions):
        waiting[_essence(text)].append(index)
    exact = set(instructions)
    found: list[int | Literal["again", "foreign"]] = ["foreign"] * len(texts)
    # Those that are written exactly so come first: two may differ in white space alone.
    for place in sorted(range(len(texts)), key=lambda place: texts[place] not in exact):
        free = waiting.get(_essence(texts[place]))
        if free is None:
            continue
        same = [index for index in free if instructions[index] == texts[place]]
        if not free:
            found[place] = "again"
            continue
        found[place] = index = same[0] if same else free[0]
        free.remove(index)
    return found


def _essence(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).translate(_QUOTES).split())
