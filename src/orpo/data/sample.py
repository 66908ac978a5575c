"""A few rows of a data set that is gone through once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random

from orpo.data.types import Row

__all__ = ["Sample"]


class Sample:
    """A few rows drawn from a stream while it passes, each with the same chance.

    Attributes:
        rows: The rows drawn so far, in no order.
        passed: Rows that have passed.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.rows: list[Row] = []
        self.passed = 0
        self._count, self._random = count, Random(seed)  # noqa: S311 - nothing secret is drawn

    def passing(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The same rows."""
        for row in rows:
            number = self.passed
            place = number if number < self._count else self._random.randint(0, number)
            if number < self._count:
                self.rows.append(row)
            elif place < self._count:
                self.rows[place] = row
            self.passed += 1
            yield row
