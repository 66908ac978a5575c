"""From rows to pairs: the format is recognised from the first row that can be read."""

from __future__ import annotations

from dataclasses import dataclass

from orpo.data.formats import recognise, to_pair
from orpo.data.types import Dropped, PreferencePair, Row
from orpo.errors import DataError

__all__ = ["PairReader"]


@dataclass
class PairReader:
    """Reads the rows of one data set, all in one format.

    Attributes:
        format: Name of the format out of `orpo.data.formats.FORMATS`; empty until the first row
            that can be read decides it.
        on_bad_row: "error" stops at a malformed row; "drop" gives `Dropped` for it.
        pair_rule: How a pair is chosen from a list of scored answers, see
            `orpo.data.formats.PAIR_RULES`.
    """

    format: str = ""
    on_bad_row: str = "error"
    pair_rule: str = "best_worst"

    def __call__(self, row: Row) -> PreferencePair | Dropped:
        """The pair of a row, or why it gives none.

        Raises:
            DataError: The row is malformed and `on_bad_row` is "error".
        """
        try:
            return self._read(row)
        except DataError as error:
            if self.on_bad_row == "error":
                raise
            reason = "unreadable" if row.broken else "malformed"
            return Dropped(reason, error.where or row.where, error.what)

    def _read(self, row: Row) -> PreferencePair | Dropped:
        if row.left_out:
            return Dropped(row.left_out, row.where)
        if row.broken is not None:
            raise row.broken
        name = self.format or recognise(row.values, row.where)
        try:
            pair = to_pair(row, name, self.pair_rule)
        except DataError as error:
            other = _looks_like(row)
            if other in {"", name}:
                raise
            raise DataError(
                f"{error.what}; this row looks like {other!r} data, the first like {name!r}",
                where=error.where,
                fix="Put rows of different formats into files of their own.",
            ) from error
        self.format = name
        return pair


def _looks_like(row: Row) -> str:
    try:
        return recognise(row.values, row.where)
    except DataError:
        return ""
