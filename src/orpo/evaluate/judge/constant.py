"""Answers that do not depend on the question: the same, or nearly the same, for several prompts."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["constant_answers"]

_LONG = 40  # letters; shorter answers are the same for good reasons: "yes", "Paris", "42"
_REPEATED, _RATE = 3, 0.01  # prompts with the same long answer, and their share of all
_MOSTLY = 0.8  # share of all prompts with the same short answer ...
_ENOUGH = 5  # ... and how many prompts there have to be
_ALIKE = 0.8  # share of shingles that two nearly equal answers have in common
_BANDS, _ROWS = 8, 4  # of a MinHash signature; texts alike to 0.8 meet with probability 0.98
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\d_]+|\d+")
_PRIME = np.uint64((1 << 61) - 1)


def constant_answers(answers: Sequence[str], prompts: Sequence[str]) -> set[int]:
    """Indices of answers that other prompts got too.

    Punctuation, case and white space make no difference. A long answer is constant if three
    different prompts have it (two, if there are no more than two) and one in a hundred of all; a
    short one if it is four of five answers to five prompts or more. Answers that are only nearly
    the same count if their prompts differ in more than numbers.
    """
    words = [_WORD.findall(answer.casefold()) for answer in answers]
    equal: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, found in enumerate(words):
        if found:
            equal[tuple(found)].append(index)
    constant = _repeated(equal.values(), words, prompts)
    without_numbers = [re.sub(r"\d+", "0", prompt) for prompt in prompts]
    return constant | _repeated(_groups(words), words, without_numbers)


def _repeated(
    groups: Iterable[list[int]], words: Sequence[Sequence[str]], prompts: Sequence[str]
) -> set[int]:
    """The members of groups that are too many for their prompts."""
    different = len(set(prompts))
    found: set[int] = set()
    for group in groups:
        count = len({prompts[index] for index in group})
        if _is_long(words[group[0]]):
            if count >= max(min(_REPEATED, max(different, 2)), _RATE * different):
                found.update(group)
        elif different >= _ENOUGH and count >= _MOSTLY * different:
            found.update(group)
    return found


def _is_long(words: Sequence[str]) -> bool:
    # A Chinese character says about as much as three letters.
    return sum(3 if word >= "\u3040" else len(word) for word in words) >= _LONG


def _groups(words: Sequence[Sequence[str]]) -> Iterator[list[int]]:
    """Indices of answers that are equal or nearly so; those of no words are left out."""
    parent = list(range(len(words)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for one, other in _alike(words):
        parent[root(one)] = root(other)
    members: dict[int, list[int]] = defaultdict(list)
    for index, found in enumerate(words):
        if found:
            members[root(index)].append(index)
    yield from members.values()


def _alike(words: Sequence[Sequence[str]]) -> Iterator[tuple[int, int]]:
    """Pairs of equal answers, and of long answers with nearly the same shingles."""
    first: dict[tuple[str, ...], int] = {}
    shingles: dict[int, NDArray[np.uint64]] = {}
    for index, found in enumerate(words):
        key = tuple(found)
        if key in first:
            yield first[key], index
        else:
            first[key] = index
            if _is_long(found):
                shingles[index] = _shingles(found)
    buckets: dict[tuple[int, bytes], int] = {}
    for index, hashes in shingles.items():
        for bucket in _signature(hashes):
            other = buckets.setdefault(bucket, index)
            if other != index and _jaccard(hashes, shingles[other]) >= _ALIKE:
                yield other, index


def _shingles(words: Sequence[str]) -> NDArray[np.uint64]:
    """Hashes of three words in a row, each once."""
    triples = zip(words, words[1:], words[2:], strict=False)
    hashes = {zlib.crc32(" ".join(triple).encode("utf-8", "replace")) for triple in triples}
    return np.fromiter(hashes or {0}, np.uint64)


def _signature(hashes: NDArray[np.uint64]) -> list[tuple[int, bytes]]:
    mixers = np.random.default_rng(0).integers(1, 1 << 29, (2, _BANDS * _ROWS), dtype=np.uint64)
    least = ((hashes[:, None] * mixers[0] + mixers[1]) % _PRIME).min(0)
    bands = least.reshape(_BANDS, _ROWS)
    return [(number, band.tobytes()) for number, band in enumerate(bands)]


def _jaccard(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)
