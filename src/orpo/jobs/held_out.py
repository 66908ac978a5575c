"""Holding out a share of the rows, without a prompt on both sides."""

from __future__ import annotations

import hashlib
import json

from orpo.data import Row
from orpo.data.formats import recognise, to_pair
from orpo.data.tokenize import is_tokenised
from orpo.errors import ConfigError, DataError

__all__ = ["hold_out"]


def hold_out(rows: list[Row], share: float, seed: int, where: str) -> tuple[list[Row], list[Row]]:
    """Split rows into (training, held-out), all rows of one prompt on the same side.

    The side of a prompt depends on its text and the seed alone, so that it stays when rows are
    added. Malformed rows stay with the training rows, where they are reported.

    Raises:
        ConfigError: One side would be empty.
    """
    train: list[Row] = []
    held: list[Row] = []
    first = next((row for row in rows if _readable(row)), None)
    for row in rows:
        side = held if first is not None and _draw(row, first, seed) < share else train
        side.append(row)
    if not train or not held:
        raise ConfigError(
            f"a share of {share} of {len(rows)} rows leaves one side empty",
            where="held_out",
            fix=f"Give a larger data set than {where}, another share, or an eval_dataset.",
        )
    return train, held


def _readable(row: Row) -> bool:
    try:
        return is_tokenised(row.values) or bool(recognise(row.values, row.where))
    except DataError:
        return False


def _draw(row: Row, first: Row, seed: int) -> float:
    """A number in [0, 1) that belongs to the row's prompt."""
    try:
        key = _prompt_key(row, first)
    except DataError:
        return 1.0
    digest = hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _prompt_key(row: Row, first: Row) -> str:
    if is_tokenised(row.values):
        ids = row.values.get("prompt_ids", row.values.get("prompt_input_ids"))
        return json.dumps(list(ids or []))
    pair = to_pair(row, recognise(first.values, first.where))
    prompt = pair.prompt if pair.prompt is not None else pair.text.prompt if pair.text else ""
    return json.dumps(prompt, default=str, sort_keys=True)
