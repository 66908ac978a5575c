"""What is kept in mind of each row that is mended, and which rows others make superfluous."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from orpo.audit.repeats import NearDuplicates
from orpo.audit.views import PairView, opposite
from orpo.errors import DataError

TOLERANCE = 0.01
"""How far from one half the share of longer chosen answers may stay."""


@dataclass(slots=True)
class Entry:
    """What is kept in mind of a row.

    Attributes:
        reason: Why it is dropped; empty while it is kept. `detail` says it in words.
        held: Whether it is held out.
        key: `PairView.key`; empty where the row holds no pair, which may be kept, not compared.
        question: `PairView.question_key`, for the split.
        longer: 1 if the chosen answer is the longer one, -1 if the rejected is, else 0.
        category: Value of the column to balance by.
    """

    index: int
    where: str
    reason: str = ""
    detail: str = ""
    held: bool = False
    key: bytes = b""
    question: int = -1
    weight: float = 1.0
    longer: int = 0
    category: str = ""

    @property
    def kept(self) -> bool:
        """Whether the row is in one of the copies."""
        return not self.reason

    def drop(self, reason: str, detail: str) -> None:
        """Leave the row out."""
        self.reason, self.detail = reason, detail

    def line(self) -> bytes:
        """The row in the ledger of changes."""
        change = {
            "where": self.where,
            "row": self.index + 1,
            "action": "held_out" if self.kept else "dropped",
            "reason": "held_out" if self.kept else self.reason,
            "detail": self.detail,
        }
        return json.dumps(change).encode() + b"\n"


def drop_reversed(entries: Iterable[Entry]) -> None:
    """Drop rows that prefer the opposite of each other; all, as nobody knows which is right."""
    pairs = [entry for entry in entries if entry.kept and opposite(entry.key)]
    first: dict[bytes, Entry] = {}
    for entry in pairs:
        first.setdefault(entry.key, entry)
    for entry in pairs:
        against = first.get(opposite(entry.key))
        if against is not None:
            entry.drop("contradiction", f"prefers the opposite of {against.where}")


def drop_repeated(entries: Iterable[Entry]) -> None:
    """Drop rows whose prompt and answers are, word for word, those of an earlier row.

    A row that differs in its weight alone is a copy, too: the first says how much the pair counts.
    """
    first: dict[bytes, Entry] = {}
    for entry in entries:
        if entry.kept and entry.key:
            earlier = first.setdefault(entry.key, entry)
            if earlier is not entry:
                other = f"; same pair, other weight ({entry.weight:g}, there {earlier.weight:g})"
                same = entry.weight == earlier.weight
                entry.drop("exact_duplicate", f"repeats {earlier.where}{'' if same else other}")


def drop_nearly_repeated(rows: Iterable[tuple[Entry, PairView]]) -> int:
    """Drop rows that say nearly the same as an earlier one; how many were dropped."""
    finder = NearDuplicates()
    # Rows without words, or beyond its limit, are not compared.
    added = [entry for entry, seen in rows if finder.add(seen)]
    copies = finder.copies()
    for row, earlier in copies:
        added[row].drop("near_duplicate", f"nearly repeats {added[earlier].where}")
    return len(copies)


def balance_lengths(
    entries: Sequence[Entry], seed: int, where: str, *, strict: bool = True
) -> dict[str, Any]:
    """Drop pairs until the longer answer is the chosen one in about half of those that differ.

    Where one of the two kinds is absent, that is refused if `strict`, else all is left as it is.
    The counts before and after are returned.
    """
    sides = {
        sign: [entry for entry in entries if entry.kept and entry.longer == sign]
        for sign in (1, -1)
    }
    few, many = sorted(sides.values(), key=len)
    before, which = _share(sides), "chosen" if many is sides[1] else "rejected"
    if many and not few and strict:
        raise DataError(
            f"the {which} answer is the longer one in all {len(many)} pairs whose lengths differ, "
            "so balancing would leave none of them",
            where=where,
            fix="Collect pairs with the opposite, or leave --balance length out.",
        )
    limit = int(len(few) * (0.5 + TOLERANCE) / (0.5 - TOLERANCE) + 1e-9)
    if few:
        _drop_above(many, limit, seed, f"the {which} answer is the longer one too often")
    return {"before": before, "after": _share(sides)}


def balance_values(
    entries: Sequence[Entry], column: str, ratio: float, seed: int
) -> dict[str, Any]:
    """Drop pairs until no category has more than `ratio` times the rows of the smallest.

    Categories with their rows, before and after, are returned.
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


def _drop_above(entries: Iterable[Entry], limit: int, seed: int, detail: str) -> None:
    """Drop what is above a limit, drawn by a hash of seed and pair: the same on every machine."""
    salt = (seed % 2**64).to_bytes(8)

    def draw(entry: Entry) -> tuple[bytes, int]:
        return blake2b(entry.key, digest_size=8, salt=salt).digest(), entry.index

    for entry in sorted(entries, key=draw)[limit:]:
        entry.drop("balance", f"{detail}; drawn with seed {seed}")


def _share(sides: dict[int, list[Entry]]) -> dict[str, Any]:
    chosen, rejected = (sum(entry.kept for entry in sides[sign]) for sign in (1, -1))
    pairs = chosen + rejected
    return {"pairs": pairs, "longer_chosen": chosen / pairs if pairs else None}
