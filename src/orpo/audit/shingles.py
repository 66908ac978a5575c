"""Texts as sets of words and pairs of words, small enough to keep for every row.

A Chinese, Japanese or Korean character counts as a word. Signs that change what is asked in
mathematics (2 + 2, 2 * 2) are words too; other punctuation, case and white space do not matter.
"""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Hashes: TypeAlias = NDArray[np.uint32]
"""Hashes of words or of pairs of words."""

_EACH = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_EACH}]|[^\W_{_EACH}]+|[+*/=<>^%]")
_MIX = np.uint64(0x9E3779B97F4A7C15)

IDEOGRAPH, NUMBER = 1, 2
"""Bits of a word's hash: it is a Chinese, Japanese or Korean character; it is not all letters."""

PERMUTATIONS = 150
"""Hash functions of a MinHash signature: its estimate is right to about 0.04."""


def words(text: str, most: int, *, from_end: bool = False) -> Hashes:
    """The words of a text in order, as hashes: its first `most`, or its last ones.

    A text of many megabytes is read only as far as needed.
    """
    reach = 40 * most  # nobody means words of more than 40 characters on average
    part = text[-reach:] if from_end else text[:reach]
    found = _WORD.findall(part.casefold())
    found = found[-most:] if from_end else found[:most]
    if len(_KNOWN) > _MOST_KNOWN:
        _KNOWN.clear()
    return np.fromiter(map(_KNOWN.__getitem__, found), np.uint32, len(found))


class _Known(dict[str, int]):
    """Word -> a hash whose last two bits say whether it is a Chinese character, and a number."""

    def __missing__(self, word: str) -> int:
        one = word >= "\u3040" and len(word) == 1
        kind = IDEOGRAPH if one else 0 if word.isalpha() else NUMBER
        self[word] = (zlib.crc32(word.encode("utf-8", "replace")) & ~3) | kind
        return self[word]


_KNOWN, _MOST_KNOWN = _Known(), 200_000  # the words of any text are mostly the same few thousand


def shingles(sequence: Hashes) -> Hashes:
    """The pairs of neighbouring words, each once; the word itself if there is only one."""
    if len(sequence) < 2:
        return sequence
    wide = sequence.astype(np.uint64)
    mixed = (wide[:-1] * _MIX) ^ (wide[1:] * (_MIX ^ np.uint64(0xFFFF)))
    return np.unique((mixed >> np.uint64(29)).astype(np.uint32))


def minhash_available() -> bool:
    """Whether datasketch is installed."""
    return find_spec("datasketch") is not None


class WordStore:
    """Word hashes of many texts, one after another: four bytes a word."""

    def __init__(self) -> None:
        self._hashes, self._ends = array("I"), array("q", [0])

    def add(self, sequence: Hashes) -> None:
        """Keep a text's words."""
        self._hashes.frombytes(sequence.tobytes())
        self._ends.append(len(self._hashes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Hashes:
        start, end = self._ends[index], self._ends[index + 1]
        return np.frombuffer(self._hashes, np.uint32)[start:end]


class Signatures:
    """MinHash signatures of many texts, and which of them share a band.

    datasketch makes the signatures. Its index keeps a Python set for every band of every row,
    a gigabyte for 100,000 rows; sorting one band of all rows after another takes a second instead.

    Three values make a band: with 50 bands, texts that share a third of their pairs of words meet
    in some band with probability 0.85, those that share half with 0.998.
    """

    BAND = 3

    def __init__(self) -> None:
        datasketch: Any = import_module("datasketch")
        self._empty: Any = datasketch.MinHash(num_perm=PERMUTATIONS, hashfunc=_as_it_is)
        self._values = array("I")

    def add(self, features: Hashes) -> None:
        """Sign a text's features; there must be one at least."""
        made = self._empty.copy()
        made.update_batch(features.tolist())
        self._values.frombytes(made.hashvalues.astype(np.uint32).tobytes())

    @property
    def table(self) -> Hashes:
        """(texts, PERMUTATIONS)."""
        return np.frombuffer(self._values, np.uint32).reshape(-1, PERMUTATIONS)

    def bands(self) -> Iterable[NDArray[np.uint64]]:
        """(texts,) for each band: texts with equal numbers are alike in it."""
        for start in range(0, PERMUTATIONS, self.BAND):
            mixed = np.zeros(len(self.table), np.uint64)
            for column in self.table[:, start : start + self.BAND].T:
                mixed = (mixed ^ column) * _MIX
                mixed ^= mixed >> np.uint64(31)
            yield mixed


def _as_it_is(value: int) -> int:
    return value
