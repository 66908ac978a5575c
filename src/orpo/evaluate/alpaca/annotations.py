"""Verdicts that another tool gave, such as the official one's `annotations.json`."""

from __future__ import annotations

import csv
import gzip
import io
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo.errors import DataError
from orpo.evaluate.alpaca.data import Baseline, read_rows

__all__ = ["OFFICIAL_ANNOTATOR", "OFFICIAL_BASELINE", "Annotations", "read_annotations"]

OFFICIAL_ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"
OFFICIAL_BASELINE = "gpt4_1106_preview"
_FIX = "Give the annotations.json of the official tool, or a CSV file with these columns."


@dataclass(frozen=True)
class Annotations:
    """Verdicts on one model's answers.

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
        left_out: How many rows of the file belong to no instruction.
        by_position: Nothing in the file says which instruction a row is of, so they were counted.
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
    left_out: int = 0
    by_position: bool = False

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
    `len_output_2`. Their instruction is found by the column `index`; without it by the text of
    `instruction`, if the evaluation set is at hand; without that they count from 0, as in the
    official tool. A column `model` picks the rows of the model that is asked for.

    Raises:
        DataError: The file is missing or of another format, or holds nothing of this model.
    """
    rows = _of_model(_rows(path), model, path)
    has_index = all(str(row.get("index", "")).strip() for _, row in rows)
    by_text = evaluation_set is not None and all("instruction" in row for _, row in rows)
    placed, left_out = _placed(rows, evaluation_set if by_text and not has_index else None, path)
    by_position = not has_index and not by_text
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
        left_out=left_out,
        by_position=by_position,
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
    names = {str(row["model"]) for _, row in rows if row.get("model")}
    if names:
        if model not in names:
            shown = ", ".join(sorted(names)[:8])
            fix = f"Name one of its {len(names)}: {shown}{', ...' if len(names) > 8 else ''}."
            raise DataError(f"holds no model {model!r}", where=str(path), fix=fix)
        rows = [(where, row) for where, row in rows if str(row.get("model")) == model]
    if not rows:
        raise DataError("holds no annotation", where=str(path), fix=_FIX)
    return rows


def _placed(
    rows: list[_Row], evaluation_set: Baseline | None, path: Path
) -> tuple[list[tuple[int, str, dict[str, Any]]], int]:
    """((index, place, row) of each row that belongs to an instruction, how many do not)."""
    if evaluation_set is None:
        numbers = [row.get("index", number) for number, (_, row) in enumerate(rows)]
        try:
            return [(int(n), *row) for n, row in zip(numbers, rows, strict=True)], 0
        except (TypeError, ValueError) as error:
            raise DataError(f"an index is no number ({error})", where=str(path), fix=_FIX) from None
    places: dict[str, deque[int]] = defaultdict(deque)
    for index, text in enumerate(evaluation_set.instructions):
        places[text].append(index)
    found = []
    for where, row in rows:
        waiting = places[str(row["instruction"])]
        if waiting:
            found.append((waiting.popleft(), where, row))
    if not found:
        fix = "Give the evaluation set that they were made with as --data."
        raise DataError(
            "none of its instructions is in the evaluation set", where=str(path), fix=fix
        )
    return sorted(found, key=lambda one: one[0]), len(rows) - len(found)


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
