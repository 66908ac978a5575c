"""The rows of the bench: plain texts that every side turns into the same token ids."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from orpo.data.lengths import LengthPolicy
from orpo.data.reading import PairReader
from orpo.data.rendering import RenderingError
from orpo.data.sources import open_source
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Dropped, PreferencePair, Row, TextPair
from orpo.errors import DataError

__all__ = [
    "BenchRow",
    "PairLengths",
    "RowMaker",
    "grouped_by_length",
    "read_rows",
    "repeated",
    "text_pairs",
]


class PairLengths(NamedTuple):
    """Tokens of a pair within max_length, BOS and end-of-sequence included."""

    prompt: int
    chosen: int
    rejected: int


@dataclass(frozen=True)
class BenchRow:
    """One row as text, and its length in tokens."""

    prompt: str
    chosen: str
    rejected: str
    lengths: PairLengths

    @property
    def texts(self) -> dict[str, str]:
        """The columns that the trainers read."""
        return {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected}


class RowMaker:
    """Turns pairs of texts into rows that no side drops.

    Args:
        tokenizer: The model's; it counts.
        max_length: Tokens of prompt and answer together.

    Raises:
        ModelError: The tokenizer has no end-of-sequence token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self.max_length = max_length
        self.tokenizer = tokenizer
        self._pairs = PairTokenizer(tokenizer, LengthPolicy(max_length))

    def text_of(self, pair: PreferencePair) -> TextPair | None:
        """A pair as text, through the chat template if it is one of messages; None if it fails."""
        try:
            text = self._pairs.template.render(pair)
        except RenderingError:
            return None
        parts = (text.prompt, text.chosen, text.rejected or "")
        return TextPair(*(part.replace(text.guard, "") if text.guard else part for part in parts))

    def __call__(self, text: TextPair) -> BenchRow | None:
        """The row, or None where it would be dropped (empty, identical or too long)."""
        bos = self.tokenizer.bos_token or ""
        # TRL puts BOS before every prompt; ours what the tokenizer itself puts there. Both leave a
        # prompt alone that has it already.
        prompt = text.prompt if text.prompt.startswith(bos) else bos + text.prompt
        pair = PreferencePair(Row({}, "bench", 0), TextPair(prompt, text.chosen, text.rejected))
        ids = self._pairs(pair)
        if isinstance(ids, Dropped) or not ids.rejected_ids:
            return None
        lengths = PairLengths(len(ids.prompt_ids), len(ids.chosen_ids), len(ids.rejected_ids))
        return BenchRow(prompt, text.chosen, text.rejected or "", lengths)


def text_pairs(source: str, make: RowMaker) -> Iterator[TextPair]:
    """The pairs of a data set as text, in order.

    Raises:
        DataError: It cannot be read; says where.
    """
    read = PairReader()
    for row in open_source(source):
        pair = read(row)
        text = make.text_of(pair) if isinstance(pair, PreferencePair) else None
        if text is not None:
            yield text


def read_rows(texts: Iterable[TextPair], make: RowMaker, count: int, where: str) -> list[BenchRow]:
    """The first `count` usable rows, or as many as there are.

    Raises:
        DataError: There is none.
    """
    made = (make(text) for text in texts)
    rows = list(islice((row for row in made if row is not None), count))
    if not rows:
        raise DataError(
            f"no row fits into {make.max_length} tokens with two different answers",
            where=where,
            fix="Give other rows or a larger --max_length.",
        )
    return rows


def repeated(rows: list[BenchRow], count: int) -> list[BenchRow]:
    """Exactly `count` rows, from the beginning again where there are fewer."""
    return list(islice(cycle(rows), count))


def grouped_by_length(rows: list[BenchRow], batch_size: int, warmup: int) -> list[BenchRow]:
    """The same rows in batches of similar length, the batches in a random order.

    The rows of the warm-up stay where they are, so that every side counts the same rows.
    transformers' `group_by_length` sorts within a fourth of the data set at most, which for the few
    batches of a bench is no sorting at all.
    """
    first = warmup * batch_size
    ordered = sorted(rows[first:], key=lambda row: row.lengths.prompt + max(row.lengths[1:]))
    batches = [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
    random.Random(0).shuffle(batches)  # noqa: S311 - the same order every time
    return rows[:first] + [row for batch in batches for row in batch]
