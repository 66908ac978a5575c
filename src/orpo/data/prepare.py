"""From rows to a data set of token ids with an exact account of every row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import torch
from tqdm.auto import tqdm

from orpo.data.lengths import TooLongError
from orpo.data.reading import PairReaders
from orpo.data.store import COLUMNS, PairStore
from orpo.data.token_columns import is_tokenised
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Dropped, Ledger, PreferencePair, Row, TokenizedPair
from orpo.errors import DataError
from orpo.terminal import progress_stream

__all__ = ["Preparation", "StreamedPairs", "is_prepared"]

_TOKENISED = "already tokenised"
_TOGETHER = 256  # rows that are tokenised at once
_QUIET_SECONDS = 2  # that preparation may take before it shows progress

Outcome = TokenizedPair | Dropped


def is_prepared(dataset: object) -> bool:
    """Whether a data set came out of `Preparation`."""
    if isinstance(dataset, StreamedPairs):
        return True
    return tuple(getattr(dataset, "column_names", None) or ()) == COLUMNS


@dataclass(frozen=True)
class Preparation:
    """How rows become token ids.

    Attributes:
        tokenize: Turns pairs into token ids.
        on_bad_row: "error" stops at a malformed row; "drop" leaves it out and counts it.
        data_format: One of `orpo.data.formats.FORMATS` or "answers"; empty to recognise it.
        pair_rule: One of `orpo.data.formats.PAIR_RULES`, for lists of scored answers.
        cache: Folder that keeps what was tokenised; None to keep nothing.
    """

    tokenize: PairTokenizer
    on_bad_row: str = "error"
    data_format: str = ""
    pair_rule: str = "best_worst"
    cache: Path | None = None

    def __call__(self, rows: Iterable[Row], name: str) -> tuple[datasets.Dataset, Ledger]:
        """All rows, to a data set that lies on disk as far as it is large.

        Returns:
            A data set with the columns `COLUMNS`, and the account of every row.

        Raises:
            DataError: A malformed row, or no pair was kept.
        """
        store = PairStore(self.cache, self._key(rows))
        kept = store.load()
        if kept is not None:
            prepared, ledger = kept
            ledger.name, ledger.recalled = name, True
            return prepared, ledger
        ledger = Ledger(name)
        with store.writing() as write:
            for pair in self.stream(rows, ledger, progress=True):
                write(pair)
            _require_pairs(ledger)
        return store.finish(ledger), ledger

    def stream(
        self, rows: Iterable[Row], ledger: Ledger, *, progress: bool = False
    ) -> Iterator[TokenizedPair]:
        """The kept pairs one by one; the ledger counts along.

        Args:
            rows: Read some hundred at a time, fewer at the beginning.
            ledger: Receives what became of each row.
            progress: Show on a terminal how far it is.
        """
        readers = _Readers(self)
        ahead, together = iter(rows), 1
        bar = tqdm(
            desc=f"reading {ledger.name}",
            unit=" rows",
            delay=_QUIET_SECONDS,
            leave=False,
            disable=None if progress else True,
            file=progress_stream(),
        )
        with bar:
            while chunk := list(islice(ahead, together)):
                outcomes = readers(chunk)
                readers.describe(ledger)
                for outcome in outcomes:
                    ledger.count(outcome)
                    if isinstance(outcome, TokenizedPair):
                        yield outcome
                bar.update(len(chunk))
                together = min(2 * together, _TOGETHER)
        readers.read.require_readable()

    def _key(self, rows: Iterable[Row]) -> str:
        """What the result depends on, as a name; empty if the rows do not say what they are."""
        ask = getattr(rows, "fingerprint", None)
        identity = ask() if callable(ask) and self.cache is not None else None
        if identity is None:
            return ""
        how = (self.on_bad_row, self.data_format, self.pair_rule)
        return PairStore.key(identity, self.tokenize.fingerprint(), *how)


class _Readers:
    """Reads rows of one or several data sets; each has its own format."""

    def __init__(self, how: Preparation) -> None:
        self.how = how
        self.read = PairReaders(how.data_format, how.on_bad_row, how.pair_rule)
        self.tokenised = False
        self.renderings: dict[str, None] = {}

    def __call__(self, rows: list[Row]) -> list[Outcome]:
        """What becomes of some rows, in order."""
        read = [self._read(row) for row in rows]
        pairs = [pair for pair in read if isinstance(pair, PreferencePair)]
        spoken = self.how.tokenize.template.renders_messages
        self.renderings |= {"chat template" if spoken(p) else "plain text": None for p in pairs}
        tokens = iter(self.how.tokenize.batch(pairs))
        return [next(tokens) if isinstance(found, PreferencePair) else found for found in read]

    def describe(self, ledger: Ledger) -> None:
        """Enter what the rows turned out to be."""
        formats = [*self.read.formats, *([_TOKENISED] * self.tokenised)]
        ledger.format, ledger.rendering = " + ".join(formats), " + ".join(self.renderings)

    def _read(self, row: Row) -> PreferencePair | Outcome:
        how, reader = self.how, self.read.of(row)
        if reader.format or not is_tokenised(row.values):
            return reader(row)
        try:
            self.tokenised = True
            found = how.tokenize.from_tokens(row)
        except TooLongError:
            raise  # asked for by truncation="error"; nothing is wrong with the row's form
        except DataError as error:
            if how.on_bad_row == "error":
                raise
            return reader.refuse(row, error)
        reader.accept(row)
        return found


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
        vars(self.ledger).update(vars(Ledger(self.ledger.name)))
        for pair in self.preparation.stream(self.source(), self.ledger):
            yield {key: getattr(pair, key) for key in COLUMNS}
        # A worker of a data loader may have been dealt no rows; it leaves them to the others.
        if self.ledger.rows_in > 0 or torch.utils.data.get_worker_info() is None:
            _require_pairs(self.ledger)


def _require_pairs(ledger: Ledger) -> None:
    """Check that there is something to prefer.

    Raises:
        DataError: No row was kept, or none that was kept has a rejected answer.
    """
    if ledger.kept == 0:
        details = [rows[0].detail for rows in ledger.examples.values()]
        detail = f" ({details[0]})" if details and details[0] else ""
        long = any("too_long" in reason for reason in ledger.dropped)
        raise DataError(
            f"no pair is left to train on: {ledger.summary()}{detail}",
            where=ledger.name,
            fix="Raise max_length, or see the reasons." if long else "See the reasons.",
        )
    if ledger.nll_only == ledger.kept:
        raise DataError(
            f"no row has a rejected answer (column 'rejected'): {ledger.summary()}",
            where=ledger.name,
            fix="Preference data need 'chosen' and 'rejected'; rows without may be among them.",
        )
