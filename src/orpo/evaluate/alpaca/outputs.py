"""A model's answers in the official format, which the official tool reads and writes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from orpo.errors import DataError
from orpo.evaluate.alpaca.data import Baseline, read_rows
from orpo.evaluate.alpaca.matching import Places
from orpo.evaluate.answers import Answered, Question
from orpo.runs import write_text

__all__ = ["OUTPUTS", "questions_of", "read_outputs", "write_outputs"]

OUTPUTS = "model_outputs.json"
"""What the official tool calls the file."""

_LEFT_OUT = {
    "again": "further outputs to the same instruction",
    "foreign": "outputs to other instructions",
}


def questions_of(baseline: Baseline) -> list[Question]:
    """The instructions as questions; ids are their indexes in the evaluation set."""
    return [
        Question(str(index), (text,), category=dataset)
        for index, (text, dataset) in enumerate(
            zip(baseline.instructions, baseline.datasets, strict=True)
        )
    ]


def write_outputs(answered: Sequence[Answered], generator: str, path: Path) -> None:
    """Write answers as a list of {"dataset", "instruction", "output", "generator", "datasplit"}.

    Args:
        answered: In the order of the evaluation set.
        generator: The model's name; the official tool shows it in its table.
        path: JSON file to write.
    """
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
    """The output for each instruction, found by the instruction's text.

    Args:
        path: JSON file in the official format.
        instructions: Of the evaluation set; one that is there twice takes the outputs in turn.

    Returns:
        (for each instruction its output, None where the file has none; why outputs of the file
        are not among these -> how many).

    Raises:
        DataError: The file is missing, of another format, or has no output for any instruction.
    """
    rows = read_rows(path)
    for where, row in rows:
        if not isinstance(row.get("instruction"), str) or not isinstance(row.get("output"), str):
            fix = "Give a text for each, as the official tool does."
            raise DataError("no text in 'instruction' or 'output'", where=where, fix=fix)
    places = Places(instructions).of(row["instruction"] for _, row in rows)
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
