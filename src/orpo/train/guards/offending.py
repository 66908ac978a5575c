"""The file that shows an optimizer step whose loss or gradient was not finite, row by row."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from orpo.runs import write_text
from orpo.train.metrics import COLUMNS

__all__ = ["Offence", "Watched", "describe", "write_offence"]

_NAMED_PARAMETERS = 20


@dataclass(frozen=True)
class Watched:
    """A micro-batch of the optimizer step that is under way.

    Attributes:
        table: What its loss is made of, one row per pair.
        batch: The batch itself, of `orpo.data.PairCollator`.
        columns: Names of the table's columns.
    """

    table: Tensor
    batch: dict[str, Tensor]
    columns: tuple[str, ...] = COLUMNS


@dataclass(frozen=True)
class Offence:
    """What was not finite.

    Attributes:
        what: "loss" or "gradient".
        step: The optimizer step, counted from 1.
        rows: The step's rows on every rank, as `describe` gives them.
        parameters: Names of the parameters whose gradient is not finite.
    """

    what: str
    step: int
    rows: list[dict[str, Any]]
    parameters: list[str]

    def __str__(self) -> str:
        """What is not finite, at which step, in which rows."""
        numbers = self.suspects
        listed = ", ".join(map(str, numbers[:16])) + (" …" if len(numbers) > 16 else "")
        return (
            f"{'the' if self.what == 'loss' else 'a'} {self.what} is not finite at optimizer step "
            f"{self.step} (rows {listed or 'unknown'})"
        )

    @property
    def suspects(self) -> list[int]:
        """Numbers of the rows to look at: those that are not finite themselves, else all."""
        spoilt = {row["row"] for row in self.rows if not row["finite"]}
        every = {row["row"] for row in self.rows}
        return sorted(spoilt if self.what == "loss" else every)


def describe(watched: list[Watched], rank: int, tokenizer: Any = None) -> list[dict[str, Any]]:
    """Each row of a rank's micro-batches as plain values: number, figures, token ids, text."""
    return [
        _row(part, index, rank, tokenizer)
        for part in watched
        for index in range(len(part.batch["row"]))
    ]


def _row(part: Watched, index: int, rank: int, tokenizer: Any) -> dict[str, Any]:
    figures = part.table[index].tolist()
    ids = _token_ids(part.batch, index)
    row: dict[str, Any] = {
        "row": int(part.batch["row"][index]),
        "rank": rank,
        "finite": all(map(math.isfinite, figures)),
        "figures": dict(zip(part.columns, map(_strict, figures), strict=True)),
        "token_ids": ids,
    }
    if tokenizer is not None:
        row["text"] = {name: tokenizer.decode(tokens) for name, tokens in ids.items()}
    return row


def _token_ids(batch: dict[str, Tensor], index: int) -> dict[str, list[int]]:
    """The pair's ids without padding; empty where the batch is not a collator's."""
    found: dict[str, list[int]] = {}
    for side in ("chosen", "rejected"):
        if f"{side}_input_ids" not in batch:
            continue
        ids = batch[f"{side}_input_ids"][index]
        answer = batch[f"{side}_answer_mask"][index].bool()
        prompt = batch[f"{side}_attention_mask"][index].bool() & ~answer
        found.setdefault("prompt", ids[prompt].tolist())
        found[side] = ids[answer].tolist()
    return found


def _strict(value: float) -> float | str:
    """JSON knows no NaN."""
    return value if math.isfinite(value) else str(value)


def write_offence(path: Path, offence: Offence) -> None:
    """Write a step as JSON, one line per row.

    Raises:
        OSError: It cannot be written.
    """
    head: dict[str, Any] = {"step": offence.step, "what": offence.what}
    if offence.what == "gradient":
        head["parameters"] = offence.parameters[:_NAMED_PARAMETERS]
        head["parameter_count"] = len(offence.parameters)
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in offence.rows)
    text = json.dumps(head)[:-1] + ', "rows": [\n' + ",\n".join(lines) + "\n]}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
