"""Several data sets as one, which can be gone through again and again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orpo.data.sources import iterate_dataset
from orpo.data.types import Row

__all__ = ["Mixture"]


@dataclass(frozen=True)
class Mixture:
    """The rows of several data sets, numbered anew.

    Without shares they follow one another. With shares they alternate, always the data set that is
    furthest behind its share, so that the order depends on nothing else; where the first of them
    ends, the mix ends, and the rows that are left elsewhere are marked "not_in_mix". No row comes
    twice.

    Attributes:
        sources: The data sets; iterable more than once.
        shares: A positive number for each, in any unit; None for all rows of all.
    """

    sources: Sequence[Iterable[Row]]
    shares: Sequence[float] | None = None

    def __iter__(self) -> Iterator[Row]:
        for index, (source, row) in enumerate(self._in_turn()):
            yield replace(row, index=index, source=source)

    def fingerprint(self) -> list[Any] | None:
        """What the rows depend on; None if that is not known of one data set."""
        found = [_fingerprint(source) for source in self.sources]
        return None if None in found else [found, self.shares and list(self.shares)]

    def _in_turn(self) -> Iterator[tuple[int, Row]]:
        rows = [iterate_dataset(source, f"data set {i}") for i, source in enumerate(self.sources)]
        if self.shares is not None:
            yield from self._by_shares(rows, self.shares)
        for source, rest in enumerate(rows):
            for row in rest:
                yield source, row if self.shares is None else replace(row, left_out="not_in_mix")

    @staticmethod
    def _by_shares(rows: list[Iterator[Row]], shares: Sequence[float]) -> Iterator[tuple[int, Row]]:
        taken = [0] * len(rows)
        while True:
            # The next row of each would stand at (taken + 1) / share; the earliest comes first.
            source = min(range(len(rows)), key=lambda i: ((taken[i] + 1) / shares[i], i))
            row = next(rows[source], None)
            if row is None:
                return
            taken[source] += 1
            yield source, row


def _fingerprint(rows: Iterable[Row]) -> list[Any] | None:
    ask = getattr(rows, "fingerprint", None)
    found: list[Any] | None = ask() if callable(ask) else None
    return found
