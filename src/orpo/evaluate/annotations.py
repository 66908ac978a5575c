"""Verdicts of the official tool, or in its format, on one model's answers.

The official tool joins answers to the evaluation set by the instruction's exact text, and then
takes the difficulty of the row's position, so that a missing row shifts all behind it. Here every
row keeps the instruction that it is of.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo.errors import DataError
from orpo.evaluate.alpaca import OFFICIAL_ANNOTATOR, Baseline, places_of, read_rows, read_table
from orpo.evaluate.judge.suspicious import suspicions
from orpo.evaluate.judged import JudgedPair

OFFICIAL_BASELINE = "gpt4_1106_preview"
INSTRUCTIONS = 805
"""Of the official evaluation set."""

_AGAIN, _FOREIGN = "further verdicts on the same instruction", "rows of other instructions"
_FIX = "Give the annotations.json of the official tool, or a CSV file with these columns."
_UNJUDGED = 4  # instructions without a verdict that a published result has at most
_NOTHING = {"", "nan", "null", "none"}

_Row = tuple[str, dict[str, Any]]  # its place and what it holds


@dataclass(frozen=True)
class Annotations:
    """One verdict for each instruction that a file knows, in their order."""

    pairs: list[JudgedPair]
    annotator: str = ""  # nothing where the file does not say
    baseline: str = ""
    size: int = INSTRUCTIONS  # of the evaluation set
    left_out: Mapping[str, int] = field(default_factory=dict)  # why rows are not here -> how many
    by_position: bool = False  # nothing says which instruction a row is of: they were counted
    placed: bool = True
    """Whether it is known which instruction a row is of. Rows that are counted, and that are not as
    many as the instructions, are of none: what is missing has shifted the rest."""
    contradicting: int = 0
    """Rows whose index is another instruction's than their text, which counts."""

    @property
    def unjudged(self) -> int:
        """Rows without a verdict."""
        return sum(pair.preference is None for pair in self.pairs)

    @property
    def missing(self) -> int:
        """Instructions without a row."""
        return self.size - len(self.pairs)

    def why_not_comparable(self) -> Iterator[str]:
        """Why a win rate does not compare with the published leaderboard; nothing if it does."""
        if self.annotator != OFFICIAL_ANNOTATOR:
            who = self.annotator or "a judge that the file does not name"
            yield f"The verdicts are by {who}; published figures are by {OFFICIAL_ANNOTATOR}."
        if self.baseline != OFFICIAL_BASELINE:
            yield f"The baseline is {self.baseline or 'not named'}, not {OFFICIAL_BASELINE}."
        if self.size != INSTRUCTIONS:
            yield f"The evaluation set has {self.size} instructions, not {INSTRUCTIONS}."
        if self.missing:
            yield f"{self.missing} of {self.size} instructions have no row."
        if not self.placed:
            yield "Which instruction each row is of cannot be told, so there is no length control."
        if self.unjudged > _UNJUDGED:
            at_most = f"published results leave out {_UNJUDGED} at most"
            yield f"{self.unjudged} rows have no verdict; {at_most}."


def read_annotations(path: Path, model: str, evaluation_set: Baseline | None) -> Annotations:
    """Annotations from JSON (the official tool's) or CSV, gz too.

    Rows have `preference` and either `output_1` and `output_2` or their lengths, `len_output_*`.
    Their instruction is found by the text of `instruction`, if the evaluation set is at hand;
    without that by the column `index`; without that they count from 0, as in the official tool,
    which is right only where none is missing. A second verdict on an instruction is left out. A
    column `model` or `generator_2` picks the model's rows, where there are several models.
    """
    rows = _of_model(_rows(path), model, path)
    size = len(evaluation_set.instructions) if evaluation_set else INSTRUCTIONS
    texts = [row.get("instruction") for _, row in rows]
    by_text = evaluation_set is not None and all("instruction" in row for _, row in rows)
    by_position = not by_text and not any(map(_has_index, rows))
    what, fix = "none of its indexes is an instruction's", _FIX
    places: Sequence[Any]
    if by_text and evaluation_set is not None:
        places = places_of([*map(str, texts)], evaluation_set.instructions)
        what = "none of its instructions is in the evaluation set"
        fix = "Give the evaluation set that they were made with as --data."
    elif by_position:
        places = _positions(texts)
    else:
        places = [_index(row, size if evaluation_set else None) for row in rows]
    found: dict[int, _Row] = {}
    left_out: Counter[str] = Counter()
    for place, row in zip(places, rows, strict=True):
        if place in ("foreign", "again") or place in found:
            left_out[_FOREIGN if place == "foreign" else _AGAIN] += 1
        else:
            found[place] = row
    if not found:
        raise DataError(what, where=str(path), fix=fix)
    found = dict(sorted(found.items()))
    placed = not by_position or len(found) == size
    return Annotations(
        pairs=_pairs(found, evaluation_set.datasets if evaluation_set and placed else ()),
        annotator=_one(row.get("annotator") for _, row in found.values()),
        baseline=_one(row.get("generator_1") for _, row in found.values()),
        size=size,
        left_out=dict(left_out),
        by_position=by_position,
        placed=placed,
        contradicting=sum(
            by_text and _has_index(row) and str(row[1]["index"]).strip() not in {f"{n}", f"{n}.0"}
            for n, row in found.items()
        ),
    )


def _pairs(rows: Mapping[int, _Row], datasets: tuple[str, ...]) -> list[JudgedPair]:
    """Each as a judged pair, with what is suspicious where the answers' texts are known."""
    told = all("output_2" in row for _, row in rows.values())
    first, second, asked = (
        [str(row.get(name, "")) if known else "" for _, row in rows.values()]
        for name, known in (("output_1", told), ("output_2", told), ("instruction", True))
    )
    none: list[tuple[str, ...]] = [() for _ in rows]
    flags = [suspicions(texts, asked) if told else none for texts in (first, second)]
    return [
        JudgedPair(
            index=index,
            prompt=asked[place],
            baseline=first[place],
            model=second[place],
            lengths=(_length(row, 1, where), _length(row, 2, where)),
            preference=_preference(row, where),
            flags_baseline=flags[0][place],
            flags_model=flags[1][place],
            category=datasets[index] if index < len(datasets) else "",
        )
        for place, (index, (where, row)) in enumerate(rows.items())
    ]


def _rows(path: Path) -> list[_Row]:
    if not path.is_file():
        raise DataError("no such file", where=str(path), fix=_FIX)
    if ".csv" not in path.suffixes:
        return read_rows(path)
    return [(f"{path}:{number}", row) for number, row in enumerate(read_table(path), 2)]


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


def _has_index(row: _Row) -> bool:
    return row[1].get("index") is not None and bool(str(row[1]["index"]).strip())


def _index(row: _Row, size: int | None) -> int | str:
    where, values = row
    if not _has_index(row):
        raise DataError("no index, where other rows have one", where=where, fix=_FIX)
    try:
        number = int(float(values["index"]))
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"an index is no number ({error})", where=where, fix=_FIX) from None
    return "foreign" if number < 0 or (size is not None and number >= size) else number


def _positions(texts: Sequence[Any]) -> list[int | str]:
    """Each counted, but for texts that were there before."""
    places: list[int | str] = []
    for number, text in enumerate(texts):
        again = isinstance(text, str) and text in texts[:number]
        places.append("again" if again else number - places.count("again"))
    return places


def _preference(row: dict[str, Any], where: str) -> float | None:
    """From 0 (baseline) to 1 (model), of what goes from 1 to 2; 0 in old files is a draw."""
    if "preference" not in row:
        raise DataError("no column 'preference'", where=where, fix=_FIX)
    value = row["preference"]
    if value is None or str(value).strip().lower() in _NOTHING:
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise DataError(f"preference is no number ({value!r})", where=where, fix=_FIX) from None
    if not (found == 0 or 1 <= found <= 2):
        raise DataError(
            f"the preference {found:g} is not between 1 and 2",
            where=where,
            fix="1 prefers the baseline, 2 the model, 1.5 is a draw, null is no verdict.",
        )
    return found - 1 if found else 0.5


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
