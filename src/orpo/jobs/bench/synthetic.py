"""Rows whose lengths in tokens follow a known data set, of words that somebody else wrote."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from orpo.data.types import TextPair
from orpo.jobs.bench.rows import PairLengths

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["SHAPES", "draw_lengths", "synthetic_pairs", "words_of_texts", "words_of_vocabulary"]

SHAPES = {
    "hh-like": PairLengths(137, 43, 54),
    "ultrafeedback-like": PairLengths(185, 305, 305),
}
"""Mean tokens of the pairs of HH-RLHF (harmless) and of UltraFeedback."""

_SPREAD = (0.9, 0.7, 0.7)  # standard deviations of the logarithms
_KINSHIP = 0.5  # correlation of the two answers' logarithms
_WORDS = 2000
_CONTEXT = "a a"
_SEED = 20240312


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
    """Texts of these lengths; a prompt takes half of `max_length` at most.

    Args:
        lengths: Tokens of each text.
        words: Word -> tokens that it adds to a text.
        max_length: Tokens of prompt and answer together; nothing longer than that is written.
    """
    draw = random.Random(_SEED)  # noqa: S311 - the same words every time
    known = list(words.items())
    for pair in lengths:
        prompt = _text(draw, known, min(pair.prompt, max_length // 2) - 1)  # BOS
        answers = [_text(draw, known, min(n, max_length) - 1) for n in pair[1:]]  # EOS
        yield TextPair(prompt.lstrip(), *answers)


def words_of_texts(texts: Iterable[TextPair], tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The first words of some texts, with their lengths in tokens."""
    words = (word for text in texts for word in f"{text.prompt} {text.chosen}".split())
    short = (word for word in words if len(word) <= 24)
    return _counted(islice(dict.fromkeys(islice(short, 10 * _WORDS)), _WORDS), tokenizer)


def words_of_vocabulary(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Words that are tokens themselves, or letters where there are none."""
    ids = list(range(len(tokenizer)))
    random.Random(_SEED).shuffle(ids)  # noqa: S311 - the same words every time
    pieces = (str(tokenizer.decode([token])).strip() for token in ids)
    words = (piece for piece in pieces if piece.isascii() and piece.isalpha())
    return _counted(islice(words, _WORDS), tokenizer) or {"a": 2}


def _counted(words: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    def tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    before = tokens(_CONTEXT)
    counts = {word: tokens(f"{_CONTEXT} {word}") - before for word in words}
    return {word: count for word, count in counts.items() if count > 0}


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
