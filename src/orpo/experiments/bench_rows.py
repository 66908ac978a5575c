"""Rows of the bench, which every side turns into the same token ids: of a data set, or drawn."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from orpo.data.lengths import LengthPolicy
from orpo.data.reading import PairReader
from orpo.data.rendering import RenderingError
from orpo.data.sources import open_source
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Dropped, PreferencePair, Row, TextPair
from orpo.errors import DataError
from orpo.experiments.plans import BenchJob


class PairLengths(NamedTuple):
    """Tokens of a pair within max_length, BOS and end-of-sequence included."""

    prompt: int
    chosen: int
    rejected: int


SHAPES = {"hh-like": PairLengths(137, 43, 54), "ultrafeedback-like": PairLengths(185, 305, 305)}
"""Mean tokens of the pairs of HH-RLHF (harmless) and of UltraFeedback."""
_SPREAD = (0.9, 0.7, 0.7)  # standard deviations of the logarithms
_KINSHIP = 0.5  # correlation of the two answers' logarithms
_WORDS = 2000
_CONTEXT = "a a"
_SEED = 20240312


@dataclass(frozen=True)
class SideSpec:
    """One side in one cell of the bench; travels to its process as a JSON file."""

    side: str  # `plans.OURS` or one of `plans.PEERS`
    job: BenchJob
    batch_size: int
    max_length: int
    folder: str  # where the trainer may write
    rows: list[dict[str, str]]  # `BenchRow.texts`, in order of use


@dataclass(frozen=True)
class BenchRow:
    """One row as the columns of text that the trainers read, and its length in tokens."""

    texts: dict[str, str]
    lengths: PairLengths


class RowMaker:
    """Turns pairs of texts into rows of at most `max_length` tokens that no side drops."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self._pairs = PairTokenizer(tokenizer, LengthPolicy(max_length))

    def text_pairs(self, source: str) -> Iterator[TextPair]:
        """The pairs of a data set as text, through the chat template if they are of messages."""
        read = PairReader()
        for row in open_source(source):
            pair = read(row)
            if isinstance(pair, Dropped):
                continue
            try:
                text = self._pairs.template.render(pair)
            except RenderingError:
                continue
            parts = (text.prompt, text.chosen, text.rejected or "")
            yield TextPair(*(p.replace(text.guard, "") if text.guard else p for p in parts))

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
        texts = {"prompt": prompt, "chosen": text.chosen, "rejected": text.rejected or ""}
        return BenchRow(texts, lengths)

    def first(self, texts: Iterable[TextPair], count: int, where: str) -> list[BenchRow]:
        """The first `count` usable rows, or as many as there are; none is the user's to mend."""
        rows = list(islice((row for row in map(self, texts) if row is not None), count))
        if not rows:
            what = f"no row fits into {self.max_length} tokens with two different answers"
            raise DataError(what, where=where, fix="Give other rows or a larger --max_length.")
        return rows


def mean_lengths(rows: Sequence[BenchRow]) -> dict[str, float]:
    """Mean tokens of prompt, chosen and rejected."""
    columns = zip(*(row.lengths for row in rows), strict=True)
    return {name: fmean(own) for name, own in zip(PairLengths._fields, columns, strict=True)}


def grouped_by_length(rows: list[BenchRow], batch_size: int, warmup: int) -> list[BenchRow]:
    """The same rows in batches of similar length, shuffled; those of the warm-up stay in place."""
    first = warmup * batch_size
    ordered = sorted(rows[first:], key=lambda row: row.lengths.prompt + max(row.lengths[1:]))
    batches = [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
    random.Random(0).shuffle(batches)  # noqa: S311 - the same order every time
    return rows[:first] + [row for batch in batches for row in batch]


def draw_lengths(shape: PairLengths, count: int) -> list[PairLengths]:
    """Log-normal lengths with a fixed seed; their means are those of the shape."""
    drawn = np.random.default_rng(_SEED).standard_normal((3, count))
    drawn[2] = _KINSHIP * drawn[1] + (1 - _KINSHIP**2) ** 0.5 * drawn[2]
    columns = []
    for mean, spread, normal in zip(shape, _SPREAD, drawn, strict=True):
        lengths = np.exp(spread * normal)
        columns.append(np.maximum(4, np.rint(lengths * mean / lengths.mean())).astype(int))
    return [PairLengths(*map(int, lengths)) for lengths in zip(*columns, strict=True)]


def synthetic_pairs(
    lengths: Iterable[PairLengths], words: dict[str, int], max_length: int
) -> Iterator[TextPair]:
    """Texts of so many tokens, of words and theirs; a prompt takes half of `max_length` at most."""
    draw = random.Random(_SEED)  # noqa: S311 - the same words every time
    known = list(words.items())
    for pair in lengths:
        prompt = _text(draw, known, min(pair.prompt, max_length // 2) - 1)  # BOS
        answers = [_text(draw, known, min(n, max_length) - 1) for n in pair[1:]]  # EOS
        yield TextPair(prompt.lstrip(), *answers)


def _text(draw: random.Random, words: list[tuple[str, int]], tokens: int) -> str:
    """Random words that add up to so many tokens, or a little less where none fits."""
    chosen: list[str] = []
    misses = 0
    while tokens > 0 and (misses < 50 or not chosen):
        word, count = draw.choice(words)
        if count <= tokens or not chosen:
            chosen.append(word)
            tokens -= count
        else:
            misses += 1
    return "".join(f" {word}" for word in chosen)


def words_of(texts: Iterable[TextPair], tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Words of texts, each with its tokens; without texts those that are tokens, or a letter."""

    def tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    def counted(words: Iterable[str]) -> dict[str, int]:
        before = tokens(_CONTEXT)
        counts = {word: tokens(f"{_CONTEXT} {word}") - before for word in islice(words, _WORDS)}
        return {word: count for word, count in counts.items() if count > 0}

    words = (word for text in texts for word in f"{text.prompt} {text.chosen}".split())
    short = (word for word in words if len(word) <= 24)
    if found := counted(dict.fromkeys(islice(short, 10 * _WORDS))):
        return found
    ids = list(range(len(tokenizer)))
    random.Random(_SEED).shuffle(ids)  # noqa: S311 - the same words every time
    pieces = (str(tokenizer.decode([token])).strip() for token in ids)
    return counted(one for one in pieces if one.isascii() and one.isalpha()) or {"a": 2}
