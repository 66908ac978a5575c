"""Rows of the benchmark: a model's outputs and verdicts, in the official tool's formats.

The official tool joins answers to the evaluation set by the instruction's exact text, and then
takes the difficulty of the row's position, so that a missing row shifts all behind it. Here every
row keeps the instruction that it is of. Texts that differ in white space, in quotation marks or in
how Unicode writes a letter are the same instruction.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import unicodedata
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from orpo.errors import DataError
from orpo.evaluate.alpaca.files import Baseline, read_rows
from orpo.evaluate.answers import Answered
from orpo.evaluate.judge.suspicious import suspicions
from orpo.evaluate.questions import Question
from orpo.evaluate.win_rates.judged import JudgedPair
from orpo.runs.writing import write_text

OUTPUTS = "model_outputs.json"
"""What the official tool calls the file."""
INSTRUCTIONS = 805
"""Of the official evaluation set."""
OFFICIAL_ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"
OFFICIAL_BASELINE = "gpt4_1106_preview"
UNPLACED = (
    "no length control: it needs the difficulty of each instruction, rows are missing, and nothing "
    "in the file says which instruction a row is of"
)

_QUOTES = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014", "''\"\"--")
_LEFT_OUT = {
    "again": "further outputs to the same instruction",
    "foreign": "outputs to other instructions",
}
_AGAIN = "further verdicts on the same instruction"
_FOREIGN = "rows of other instructions"
_FIX = "Give the annotations.json of the official tool, or a CSV file with these columns."
_UNJUDGED = 4  # instructions without a verdict that a published result has at most

_Row = tuple[str, dict[str, Any]]  # its place and what it holds
_Numbers = tuple[list[tuple[int, _Row]], dict[str, int]]
"""(the instruction's index and the row, of those that count; why others do not -> how many)."""


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
        if not free:
            found[place] = "again"
            continue
        same = [index for index in free if instructions[index] == texts[place]]
        index = same[0] if same else free[0]
        free.remove(index)
        found[place] = index
    return found


def _essence(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).translate(_QUOTES).split())


def questions_of(baseline: Baseline) -> list[Question]:
    """The instructions as questions; ids are their indexes in the evaluation set."""
    return [
        Question(str(index), (text,), category=dataset)
        for index, (text, dataset) in enumerate(
            zip(baseline.instructions, baseline.datasets, strict=True)
        )
    ]


def write_outputs(answered: Sequence[Answered], generator: str, path: Path) -> None:
    """Write answers as a list of {"dataset", "instruction", "output", "generator", "datasplit"}."""
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


def read_outputs(
    path: Path, instructions: Sequence[str]
) -> tuple[list[str | None], dict[str, int]]:
    """(for each instruction its output, or None; why outputs are not among these -> how many).

    Raises:
        DataError: The file is missing, of another format, or has no output for any instruction.
    """
    rows = read_rows(path)
    for where, row in rows:
        if not isinstance(row.get("instruction"), str) or not isinstance(row.get("output"), str):
            fix = "Give a text for each, as the official tool does."
            raise DataError("no text in 'instruction' or 'output'", where=where, fix=fix)
    places = places_of([row["instruction"] for _, row in rows], instructions)
    said = {n: str(row["output"]) for n, (_, row) in zip(places, rows, strict=True)}
    found = [said.get(index) for index in range(len(instructions))]
    left = Counter(_LEFT_OUT[place] for place in places if isinstance(place, str))
    if all(output is None for output in found):
        raise DataError(
            f"none of its {len(rows)} instructions is in the evaluation set",
            where=str(path),
            fix="Give the outputs for these instructions.",
        )
    return found, dict(left)


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

    def why_not_comparable(self) -> str:
        """Why a win rate does not compare with the published leaderboard; nothing if it does."""
        return " ".join(self._reasons())

    def _reasons(self) -> Iterator[str]:
        if self.annotator != OFFICIAL_ANNOTATOR:
            who = self.annotator or "a judge that the file does not name"
            yield f"The verdicts are by {who}; published figures are by {OFFICIAL_ANNOTATOR}."
        if self.baseline != OFFICIAL_BASELINE:
            yield f"The baseline is {self.baseline or 'not named'}, not {OFFICIAL_BASELINE}."
        missing = self.size - len(self.index)
        if self.size != INSTRUCTIONS:
            yield f"The evaluation set has {self.size} instructions, not {INSTRUCTIONS}."
        if missing:
            yield f"{missing} of {self.size} instructions have no row."
        if not self.placed:
            yield "Which instruction each row is of cannot be told, so there is no length control."
        without = self.preference.count(None)
        if without > _UNJUDGED:
            at_most = f"published results leave out {_UNJUDGED} at most"
            yield f"{without} rows have no verdict; {at_most}."

    def pairs(self, evaluation_set: Baseline | None) -> list[JudgedPair]:
        """Each as a judged pair, with what is suspicious where the answers' texts are known."""
        nothing = ("",) * len(self.index)
        first, second = self.outputs_1 or nothing, self.outputs_2 or nothing
        none: list[tuple[str, ...]] = [() for _ in self.index]
        flags = [
            suspicions(texts, self.instructions) if self.outputs_2 else none
            for texts in (first, second)
        ]
        datasets = evaluation_set.datasets if evaluation_set and self.placed else ()
        return [
            JudgedPair(
                index=index,
                prompt=self.instructions[place],
                baseline=first[place],
                answer=second[place],
                lengths=(self.len_output_1[place], self.len_output_2[place]),
                preference=None if value is None else (0.5 if value == 0 else value - 1),
                flags=(flags[0][place], flags[1][place]),
                category=datasets[index] if index < len(datasets) else "",
            )
            for place, (index, value) in enumerate(zip(self.index, self.preference, strict=True))
        ]


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


def _has_index(row: Mapping[str, Any]) -> bool:
    return row.get("index") is not None and bool(str(row["index"]).strip())


def _by_text(rows: list[_Row], evaluation_set: Baseline, path: Path) -> _Numbers:
    texts = [str(row["instruction"]) for _, row in rows]
    found: list[tuple[int, _Row]] = []
    left: Counter[str] = Counter()
    for row, place in zip(rows, places_of(texts, evaluation_set.instructions), strict=True):
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
