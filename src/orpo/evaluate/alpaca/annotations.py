"""Verdicts that another tool gave, such as the official one's `annotations.json`."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo.errors import DataError
from orpo.evaluate.alpaca.data import Baseline, read_rows
from orpo.evaluate.alpaca.matching import Places

__all__ = [
    "INSTRUCTIONS",
    "OFFICIAL_ANNOTATOR",
    "OFFICIAL_BASELINE",
    "Annotations",
    "read_annotations",
]

INSTRUCTIONS = 805
"""Of the official evaluation set."""
OFFICIAL_ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"
OFFICIAL_BASELINE = "gpt4_1106_preview"
_FIX = "Give the annotations.json of the official tool, or a CSV file with these columns."


@dataclass(frozen=True)
class Annotations:
    """Verdicts on one model's answers, one for each instruction that the file knows.

    Attributes:
        index: Of each instruction in the evaluation set.
        preference: 1 (baseline) to 2 (model); None for no verdict.
        len_output_1: Length of the baseline's answer in characters.
        len_output_2: Length of the model's.
        annotator: Who judged, or nothing where the file does not say.
        baseline: The baseline's name, or nothing.
        instructions: Texts, or empty where the file has none.
        outputs_1: The baseline's answers, or empty.
        outputs_2: The model's answers, or empty.
        size: How many instructions the evaluation set has.
        left_out: Why rows of the file are not among these -> how many.
        by_position: Nothing in the file says which instruction a row is of, so they were counted.
        placed: Whether it is known which instruction a row is of. Rows that are counted, and that
            are not as many as the instructions, are of none: what is missing has shifted the rest.
        contradicting: Rows whose index is another instruction's than their text; the text counts.
    """

    index: tuple[int, ...]
    preference: tuple[float | None, ...]
    len_output_1: tuple[int, ...]
    len_output_2: tuple[int, ...]
    annotator: str = ""
    baseline: str = ""
    instructions: tuple[str, ...] = ()
    outputs_1: tuple[str, ...] = ()
    outputs_2: tuple[str, ...] = ()
    size: int = INSTRUCTIONS
    left_out: Mapping[str, int] = field(default_factory=dict)
    by_position: bool = False
    placed: bool = True
    contradicting: int = 0

    def columns(self, preference: Sequence[float | None] | None = None) -> dict[str, Any]:
        """For `length_controlled_win_rate`; with other preferences if they are given."""
        return {
            "index": list(self.index),
            "preference": list(self.preference if preference is None else preference),
            "len_output_1": list(self.len_output_1),
            "len_output_2": list(self.len_output_2),
        }


def read_annotations(path: Path, model: str, evaluation_set: Baseline | None) -> Annotations:
    """Annotations from JSON (the official tool's) or CSV, gz too.

    Rows have `preference` and either `output_1` and `output_2` or `len_output_1` and
    `len_output_2`. Their instruction is found by the text of `instruction`, if the evaluation set
    is at hand; without that by the column `index`; without that they count from 0, as in the
    official tool, which is right only where none is missing: see `Annotations.placed`. A second
    verdict on an instruction is left out. A column `model` or `generator_2` picks the rows of the
    model that is asked for, where there are several.

    Raises:
        DataError: The file is missing or of another format, or holds nothing of this model.
    """
    rows = _of_model(_rows(path), model, path)
    size = len(evaluation_set.instructions) if evaluation_set else INSTRUCTIONS
    by_text = evaluation_set is not None and all("instruction" in row for _, row in rows)
    has_index = [_has_index(row) for _, row in rows]
    by_position = not by_text and not any(has_index)
    if evaluation_set is not None and by_text:
        numbers, left_out = _by_text(rows, evaluation_set, path)
    elif by_position:
        numbers, left_out = _counted(rows)
    else:
        numbers, left_out = _by_index(rows, size if evaluation_set else None, path)
    placed = sorted(((n, *row) for n, row in numbers), key=lambda one: one[0])
    texts = all("output_2" in row for _, row in rows)
    return Annotations(
        index=tuple(index for index, _, _ in placed),
        preference=tuple(_number(row, "preference", where) for _, where, row in placed),
        len_output_1=tuple(_length(row, 1, where) for _, where, row in placed),
        len_output_2=tuple(_length(row, 2, where) for _, where, row in placed),
        annotator=_one(row.get("annotator") for _, _, row in placed),
        baseline=_one(row.get("generator_1") for _, _, row in placed),
        instructions=tuple(str(row.get("instruction", "")) for _, _, row in placed),
        outputs_1=tuple(str(row.get("output_1", "")) for _, _, row in placed) if texts else (),
        outputs_2=tuple(str(row["output_2"]) for _, _, row in placed) if texts else (),
        size=size,
        left_out=left_out,
        by_position=by_position,
        placed=not by_position or len(placed) == size,
        contradicting=sum(
            by_text and _has_index(row) and str(row["index"]).strip() not in {str(n), f"{n}.0"}
            for n, _, row in placed
        ),
    )


_Row = tuple[str, dict[str, Any]]


def _rows(path: Path) -> list[_Row]:
    if not path.is_file():
        raise DataError("no such file", where=str(path), fix=_FIX)
    if ".csv" not in path.suffixes:
        return read_rows(path)
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
        rows: Iterable[dict[str, Any]] = list(csv.DictReader(io.StringIO(text)))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read ({error})", where=str(path)) from error
    return [(f"{path}:{number}", row) for number, row in enumerate(rows, 2)]


def _of_model(rows: list[_Row], model: str, path: Path) -> list[_Row]:
    for column in ("model", "generator_2"):
        names = {str(row[column]) for _, row in rows if row.get(column)}
        # A file of one model's verdicts may call it as it likes; a table of models may not.
        if len(names) > (column == "generator_2"):
            if model not in names:
                shown = ", ".join(sorted(names)[:8])
                fix = f"Name one of its {len(names)}: {shown}{', ...' if len(names) > 8 else ''}."
                raise DataError(f"holds no model {model!r}", where=str(path), fix=fix)
            rows = [(where, row) for where, row in rows if str(row.get(column)) == model]
    if not rows:
        raise DataError("holds no annotation", where=str(path), fix=_FIX)
    return rows


_AGAIN = "further verdicts on the same instruction"
_FOREIGN = "rows of other instructions"
_Numbers = tuple[list[tuple[int, _Row]], dict[str, int]]
"""(the instruction's index and the row, of those that count; why others do not -> how many)."""


def _has_index(row: Mapping[str, Any]) -> bool:
    return row.get("index") is not None and bool(str(row["index"]).strip())


def _by_text(rows: list[_Row], evaluation_set: Baseline, path: Path) -> _Numbers:
    places = Places(evaluation_set.instructions)
    found: list[tuple[int, _Row]] = []
    left: Counter[str] = Counter()
    for row, place in zip(rows, places.of(str(row["instruction"]) for _, row in rows), strict=True):
        if isinstance(place, int):
            found.append((place, row))
        else:
            left[_AGAIN if place == "again" else _FOREIGN] += 1
    if not found:
        fix = "Give the evaluation set that they were made with as --data."
        raise DataError(
            "none of its instructions is in the evaluation set", where=str(path), fix=fix
        )
    return found, dict(left)


def _by_index(rows: list[_Row], size: int | None, path: Path) -> _Numbers:
    found: dict[int, _Row] = {}
    left: Counter[str] = Counter()
    for where, row in rows:
        try:
            number = int(float(row["index"])) if _has_index(row) else -1
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"an index is no number ({error})", where=where, fix=_FIX) from None
        if not _has_index(row):
            raise DataError("no index, where other rows have one", where=where, fix=_FIX)
        if number in found:
            left[_AGAIN] += 1
        elif number < 0 or (size is not None and number >= size):
            left[_FOREIGN] += 1
        else:
            found[number] = (where, row)
    if not found:
        raise DataError("none of its indexes is an instruction's", where=str(path), fix=_FIX)
    return list(found.items()), dict(left)


def _counted(rows: list[_Row]) -> _Numbers:
    seen: set[str] = set()
    found: list[_Row] = []
    for where, row in rows:
        text = row.get("instruction")
        if not isinstance(text, str) or text not in seen:
            found.append((where, row))
        seen |= {text} if isinstance(text, str) else set()
    again = len(rows) - len(found)
    return list(enumerate(found)), {_AGAIN: again} if again else {}


def _number(row: dict[str, Any], name: str, where: str) -> float | None:
    value = row.get(name)
    if name not in row:
        raise DataError(f"no column {name!r}", where=where, fix=_FIX)
    if value is None or str(value).strip().lower() in {"", "nan", "null", "none"}:
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise DataError(f"{name} is no number ({value!r})", where=where, fix=_FIX) from None
    if not (found == 0 or 1 <= found <= 2):
        raise DataError(
            f"the preference {found:g} is not between 1 and 2",
            where=where,
            fix="1 prefers the baseline, 2 the model, 1.5 is a draw, null is no verdict.",
        )
    return found


def _length(row: dict[str, Any], which: int, where: str) -> int:
    text = row.get(f"output_{which}")
    if isinstance(text, str):
        return len(text)
    try:
        return int(float(row[f"len_output_{which}"]))
    except (KeyError, TypeError, ValueError):
        what = f"neither a text 'output_{which}' nor a number 'len_output_{which}'"
        raise DataError(what, where=where, fix=_FIX) from None


def _one(names: Iterable[Any]) -> str:
    return ", ".join(sorted({str(name) for name in names if name}))
