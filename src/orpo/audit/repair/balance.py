"""Leaving out as few pairs as it takes for the rest to be balanced.

Which ones is drawn by a hash of the seed and the pair, so that the same rows give the same copy on
every machine, and a balanced copy is left as it is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

from orpo.audit.repair.entries import Entry
from orpo.errors import DataError

__all__ = ["TOLERANCE", "balance_lengths", "balance_values", "draw"]

TOLERANCE = 0.01
"""How far from one half the share of longer chosen answers may stay."""


def balance_lengths(
    entries: Sequence[Entry], seed: int, where: str, *, strict: bool = True
) -> dict[str, Any]:
    """Drop pairs until the longer answer is the chosen one in about half of those that differ.

    Args:
        entries: The rows of one side of a split.
        seed: Draws which.
        where: The data set, for messages.
        strict: Refuse where one of the two kinds is absent, rather than leave all as it is.

    Returns:
        Counts before and after: {"pairs", "longer_chosen"} each; pairs of equal length count not.

    Raises:
        DataError: One of the two kinds is absent, so that nothing would be left.
    """
    sides = {
        sign: [entry for entry in entries if entry.kept and entry.longer == sign]
        for sign in (1, -1)
    }
    few, many = sorted(sides.values(), key=len)
    before = _share(len(sides[1]), len(sides[-1]))
    if many and not few and strict:
        which = "chosen" if sides[1] else "rejected"
        raise DataError(
            f"the {which} answer is the longer one in all {len(many)} pairs whose lengths differ, "
            "so balancing would leave none of them",
            where=where,
            fix="Collect pairs with the opposite, or leave --balance length out.",
        )
    limit = int(len(few) * (0.5 + TOLERANCE) / (0.5 - TOLERANCE) + 1e-9)
    detail = (
        f"the {'chosen' if many is sides[1] else 'rejected'} answer is the longer one too often"
    )
    if few:
        _drop_above(many, limit, seed, detail)
    kept = {sign: sum(entry.kept for entry in side) for sign, side in sides.items()}
    return {"before": before, "after": _share(kept[1], kept[-1])}


def balance_values(
    entries: Sequence[Entry], column: str, ratio: float, seed: int
) -> dict[str, Any]:
    """Drop pairs until no category has more than `ratio` times the rows of the smallest.

    Returns:
        Category -> rows, before and after.
    """
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.kept:
            groups[entry.category].append(entry)
    before = {name: len(rows) for name, rows in sorted(groups.items())}
    limit = int(ratio * min(before.values(), default=0))
    for rows in groups.values():
        _drop_above(rows, limit, seed, f"{column} {rows[0].category!r} is there too often")
    after = Counter(entry.category for entry in entries if entry.kept)
    return {"before": before, "after": dict(sorted(after.items()))}


def draw(seed: int, key: bytes) -> int:
    """A number of 64 bits that belongs to a key."""
    return int.from_bytes(blake2b(key, digest_size=8, salt=(seed % 2**64).to_bytes(8)).digest())


def _drop_above(entries: Iterable[Entry], limit: int, seed: int, detail: str) -> None:
    by_draw = sorted(entries, key=lambda entry: (draw(seed, entry.key), entry.index))
    for entry in by_draw[limit:]:
        entry.drop("balance", f"{detail}; drawn with seed {seed}")


def _share(chosen: int, rejected: int) -> dict[str, Any]:
    pairs = chosen + rejected
    return {"pairs": pairs, "longer_chosen": chosen / pairs if pairs else None}
