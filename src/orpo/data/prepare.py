"""From rows to a data set of token ids with an exact account of every row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import datasets
import numpy as np
import torch

from orpo.data.formats import recognise, to_pair
from orpo.data.tokenize import PairTokenizer, is_tokenised
from orpo.data.types import Dropped, Ledger, Row, TokenizedPair
from orpo.errors import DataError

__all__ = ["COLUMNS", "Preparation", "StreamedPairs", "is_prepared"]

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
        kept = list(self.stream(rows, ledger))
        if not kept:
            raise DataError(
                f"no pair is left to train on: {ledger.summary()}{_first_detail(ledger)}",
                where=name,
                fix="See the reasons; raise max_length if pairs are too long.",
            )
        columns: dict[str, Any] = {
            key: [np.asarray(getattr(pair, key), dtype=np.int32) for pair in kept]
            for key in COLUMNS[:3]
        }
        columns["row"] = [pair.row for pair in kept]
        return datasets.Dataset.from_dict(columns), ledger

    def stream(self, rows: Iterable[Row], ledger: Ledger) -> Iterator[TokenizedPair]:
        """The kept pairs one by one; the ledger counts along."""
        iterator = iter(rows)
        first = next(iterator, None)
        if first is None:
            return
        outcome = self._reader(first, ledger)
        for row in chain([first], iterator):
            result = outcome(row)
            ledger.count(result)
            if isinstance(result, TokenizedPair):
                yield result

    def _reader(self, first: Row, ledger: Ledger) -> Callable[[Row], TokenizedPair | Dropped]:
        if is_tokenised(first.values):
            ledger.format = "already tokenised"
            return self._strict_or_drop(self.tokenize.from_tokens)
        ledger.format = recognise(first.values, first.where)

        def read(row: Row) -> TokenizedPair | Dropped:
            pair = to_pair(row, ledger.format)
            if not ledger.rendering:
                messages = self.tokenize.template.renders_messages(pair)
                ledger.rendering = "chat template" if messages else "plain text"
            return self.tokenize(pair)

        return self._strict_or_drop(read)

    def _strict_or_drop(
        self, read: Callable[[Row], TokenizedPair | Dropped]
    ) -> Callable[[Row], TokenizedPair | Dropped]:
        if self.on_bad_row == "error":
            return read

        def lenient(row: Row) -> TokenizedPair | Dropped:
            try:
                return read(row)
            except DataError as error:
                return Dropped("malformed", error.where or row.where, error.what)

        return lenient


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
        if self.ledger.kept == 0:
            raise DataError(
                f"no pair is left to train on: {self.ledger.summary()}{_first_detail(self.ledger)}",
                where=self.ledger.name,
            )


def _first_detail(ledger: Ledger) -> str:
    for rows in ledger.examples.values():
        return f" ({rows[0].detail})" if rows[0].detail else ""
    return ""
