"""From rows to a data set of token ids with an exact account of every row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch

from orpo.data.formats import recognise, to_pair
from orpo.data.lengths import TooLongError
from orpo.data.tokenize import PairTokenizer, is_tokenised
from orpo.data.types import Dropped, Ledger, Row, TokenizedPair
from orpo.errors import DataError

__all__ = ["COLUMNS", "Preparation", "StreamedPairs", "is_prepared"]

_TOKENISED = "already tokenised"

COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids", "row")
"""Columns of a prepared data set, as `TokenizedPair` describes them."""


def is_prepared(dataset: object) -> bool:
    """Whether a data set came out of `Preparation`."""
    if isinstance(dataset, StreamedPairs):
        return True
    return tuple(getattr(dataset, "column_names", None) or ()) == COLUMNS


@dataclass(frozen=True)
class Preparation:
    """How rows become token ids.

    Attributes:
        tokenize: Turns a pair into token ids.
        on_bad_row: "error" stops at a malformed row; "drop" leaves it out and counts it.
    """

    tokenize: PairTokenizer
    on_bad_row: str = "error"

    def __call__(self, rows: Iterable[Row], name: str) -> tuple[datasets.Dataset, Ledger]:
        """All rows at once.

        Returns:
            A data set with the columns `COLUMNS`, and the account of every row.

        Raises:
            DataError: A malformed row, or no row was kept.
        """
        ledger = Ledger(name)
        columns: dict[str, list[Any]] = {key: [] for key in COLUMNS}
        for pair in self.stream(rows, ledger):
            for key in COLUMNS[:3]:  # arrays at once: lists of numbers take nine times the memory
                columns[key].append(np.asarray(getattr(pair, key), dtype=np.int32))
            columns["row"].append(pair.row)
        if ledger.kept == 0:
            raise DataError(
                f"no pair is left to train on: {ledger.summary()}{_first_detail(ledger)}",
                where=name,
                fix="See the reasons; raise max_length if pairs are too long.",
            )
        return datasets.Dataset.from_dict(columns), ledger

    def stream(self, rows: Iterable[Row], ledger: Ledger) -> Iterator[TokenizedPair]:
        """The kept pairs one by one; the ledger counts along."""
        read = self._read if self.on_bad_row == "error" else self._read_or_drop
        for row in rows:
            outcome = read(row, ledger)
            ledger.count(outcome)
            if isinstance(outcome, TokenizedPair):
                yield outcome

    def _read(self, row: Row, ledger: Ledger) -> TokenizedPair | Dropped:
        """What becomes of a row; the first that can be read decides the format of them all."""
        name = ledger.format or _format_of(row)
        if name == _TOKENISED:
            outcome = self.tokenize.from_tokens(row)
            ledger.format = name
            return outcome
        pair = to_pair(row, name)
        ledger.format = name
        if not ledger.rendering:
            messages = self.tokenize.template.renders_messages(pair)
            ledger.rendering = "chat template" if messages else "plain text"
        return self.tokenize(pair)

    def _read_or_drop(self, row: Row, ledger: Ledger) -> TokenizedPair | Dropped:
        try:
            return self._read(row, ledger)
        except TooLongError:
            raise  # asked for by truncation="error"; nothing is wrong with the row's form
        except DataError as error:
            return Dropped("malformed", error.where or row.where, error.what)


class StreamedPairs(torch.utils.data.IterableDataset[dict[str, Any]]):
    """A streaming data set of token ids: rows are tokenised as they pass, and counted.

    Args:
        source: Called at the start of each pass for its rows.
        preparation: How rows become token ids.
        name: What the data set is called in messages.
    """

    def __init__(
        self, source: Callable[[], Iterator[Row]], preparation: Preparation, name: str
    ) -> None:
        super().__init__()
        self.source = source
        self.preparation = preparation
        self.ledger = Ledger(name)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        fresh = Ledger(self.ledger.name)
        vars(self.ledger).update(vars(fresh))
        for pair in self.preparation.stream(self.source(), self.ledger):
            yield {key: getattr(pair, key) for key in COLUMNS}
        # A worker of a data loader may have been dealt no rows; it leaves them to the others.
        dealt = self.ledger.rows_in > 0 or torch.utils.data.get_worker_info() is None
        if dealt and self.ledger.kept == 0:
            raise DataError(
                f"no pair is left to train on: {self.ledger.summary()}{_first_detail(self.ledger)}",
                where=self.ledger.name,
            )


def _format_of(row: Row) -> str:
    return _TOKENISED if is_tokenised(row.values) else recognise(row.values, row.where)


def _first_detail(ledger: Ledger) -> str:
    for rows in ledger.examples.values():
        return f" ({rows[0].detail})" if rows[0].detail else ""
    return ""
