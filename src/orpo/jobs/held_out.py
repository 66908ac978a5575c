"""Holding out a share of the rows, without a prompt on both sides."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from orpo.audit.views import view
from orpo.data import Dropped, Row, Selection
from orpo.data.reading import PairReaders
from orpo.data.token_columns import is_tokenised
from orpo.errors import ConfigError

__all__ = ["hold_out"]


def hold_out(
    rows: Iterable[Row],
    share: float,
    seed: int,
    where: str,
    *,
    data_format: str = "",
    pair_rule: str = "best_worst",
) -> tuple[Selection, Selection]:
    """Split rows into (training, held-out), all rows of one prompt on the same side.

    Prompts are the same if their words are, whatever their spelling of case and space and in
    whichever format they come, as the audit compares them. The side of a prompt depends on its text
    and the seed alone, so that it stays when rows are added. Malformed rows stay with the training
    rows, where they are reported.

    Args:
        rows: Iterable more than once; they are read here, and again by who goes through the sides.
        share: How many to hold out.
        seed: Draws the sides.
        where: What the rows are called in messages.
        data_format: Name of the rows' format; recognised if empty.
        pair_rule: How a pair is chosen from a list of scored answers.

    Raises:
        ConfigError: One side would be empty.
    """
    read = PairReaders(data_format, "drop", pair_rule)
    held, count = set(), 0
    for row in rows:
        if _draw(row, read, seed) < share:
            held.add(row.index)
        count += 1
    if not held or len(held) == count:
        raise ConfigError(
            f"a share of {share} of {count} rows leaves one side empty",
            where="held_out",
            fix=f"Give a larger data set than {where}, another share, or an eval_dataset.",
        )
    indices = frozenset(held)
    return Selection(rows, indices, kept=False), Selection(rows, indices)


def _draw(row: Row, read: PairReaders, seed: int) -> float:
    """A number in [0, 1) that belongs to the row's prompt; 1 for a row that has none."""
    key = _prompt_key(row, read)
    if key is None:
        return 1.0
    digest = hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _prompt_key(row: Row, read: PairReaders) -> str | None:
    if is_tokenised(row.values):
        ids = row.values.get("prompt_ids", row.values.get("prompt_input_ids"))
        return json.dumps(list(ids or []), default=str)
    pair = read(row)
    if isinstance(pair, Dropped):
        return None
    return str(view(pair).question_key)
