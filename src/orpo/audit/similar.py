"""Texts that are nearly the same: some words changed, put in or moved.

A text is kept as hashes of its words. A Chinese, Japanese or Korean character counts as a word.
Signs that change what is asked in mathematics (2 + 2, 2 * 2) are words too; other punctuation, case
and white space do not matter. Candidates share a band of their MinHash signatures; each is then
compared in full, by words. Rare words count more than common ones, so that two questions of one
pattern ("convert 5 km to m", "convert 8 kg to g") are not taken for each other's copy.
"""

import re
import zlib
from array import array
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Hashes: TypeAlias = NDArray[np.uint32]
"""Hashes of words or of pairs of words."""

SIMILAR = 0.70
"""From here on prompt and chosen answer are nearly the same, by `similarity`. Of real rows with
every tenth word changed, more than 98 % lie above; of distinct real rows, those that continue one
conversation."""

SIMILAR_PROMPT = 0.75
"""The same for prompts alone, which are short, so it is higher."""

SHORT, STRICTER = 40, 0.05
"""Texts of fewer words must be more alike by so much: questions of one pattern come close."""

SIMILAR_ANSWER = 0.40
"""The same for one answer alone, which is shorter. It tells a second answer to the same prompt,
which is no duplicate, from the same answer in other words."""

FEW_WORDS = 6
"""Texts with fewer words must agree in all of them; answers with fewer, in one."""

ESTIMATE = 0.15
"""Signatures that agree in a smaller share of their values are not worth a comparison."""

IDEOGRAPH, NUMBER = 1, 2
"""Bits of a word's hash: it is a Chinese, Japanese or Korean character; it is not all letters."""

PERMUTATIONS = 150
"""Hash functions of a MinHash signature: its estimate is right to about 0.04."""

_EACH = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_EACH}]|[^\W_{_EACH}]+|[+*/=<>^%]")
_MIX = np.uint64(0x9E3779B97F4A7C15)
_MANY = 0.3  # share of Chinese characters
_NEIGHBOURS = 4  # texts in one band that each is compared with
_BUCKETS = 1 << 20


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


class WordStore:
    """Word hashes of many texts, one after another: four bytes a word."""

    def __init__(self) -> None:
        self._hashes, self._ends = array("I"), array("q", [0])

    def add(self, sequence: Hashes) -> None:
        """Keep a text's words."""
        self._hashes.frombytes(sequence.tobytes())
        self._ends.append(len(self._hashes))

    def __getitem__(self, index: int) -> Hashes:
        start, end = self._ends[index], self._ends[index + 1]
        return np.frombuffer(self._hashes, np.uint32)[start:end]


class WordWeights:
    """How much a word says: the rarer among the rows, the more (inverse document frequency)."""

    def __init__(self) -> None:
        self._rows = 0
        self._seen = np.zeros(_BUCKETS, np.uint32)

    def count(self, sequence: Hashes) -> None:
        """Count a row's words, each once."""
        self._rows += 1
        self._seen[np.unique(sequence) % _BUCKETS] += 1

    def of(self, unique: Hashes) -> NDArray[np.float64]:
        """The weight of each word."""
        seen = np.maximum(self._seen[unique % _BUCKETS], 1)
        weights: NDArray[np.float64] = np.log((self._rows + 1) / (seen - 0.5))
        return weights


def similarity(a: Hashes, b: Hashes, weights: WordWeights) -> float:
    """How alike two texts are, 0 to 1.

    The larger of two: the weighted share of common words, 2 |a and b| / (|a| + |b|), and the plain
    share of common words and pairs of words (Jaccard), which still sees copies where nearly all
    rows are copies of each other, so that none of their words is rare. A Chinese character says
    less than a word: where there are many, it is the Jaccard share alone, plus 0.2 to be on the
    same scale.
    """
    ours, theirs = np.unique(a), np.unique(b)
    common = np.intersect1d(ours, theirs, assume_unique=True)
    if not len(common):
        return 1.0 if not len(ours) and not len(theirs) else 0.0
    two, others = shingles(a), shingles(b)
    both = len(common) + len(np.intersect1d(two, others, assume_unique=True))
    jaccard = both / (len(ours) + len(theirs) + len(two) + len(others) - both)
    if (a & IDEOGRAPH).mean() >= _MANY:
        return min(1.0, jaccard + 0.2)
    total = float(weights.of(ours).sum() + weights.of(theirs).sum())
    return max(jaccard, 2 * float(weights.of(common).sum()) / max(total, 1e-9))


def nearly_same(a: Hashes, b: Hashes, weights: WordWeights, least: float) -> bool:
    """Whether two texts are nearly the same; short ones have to be more alike.

    Short texts that each have a number which the other lacks ask different things.
    """
    fewest = min(len(a), len(b))
    if fewest < FEW_WORDS:
        return np.array_equal(a, b)
    if fewest >= SHORT:
        return similarity(a, b, weights) >= least
    numbers, others = (set(words[words & NUMBER > 0].tolist()) for words in (a, b))
    if numbers - others and others - numbers:
        return False
    return similarity(a, b, weights) >= least + STRICTER


def minhash_available() -> bool:
    """Whether datasketch is installed."""
    return find_spec("datasketch") is not None


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
        self._empty: Any = datasketch.MinHash(num_perm=PERMUTATIONS, hashfunc=int)
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

    def bands(self) -> Iterator[NDArray[np.uint64]]:
        """(texts,) for each band: texts with equal numbers are alike in it."""
        for start in range(0, PERMUTATIONS, self.BAND):
            mixed = np.zeros(len(self.table), np.uint64)
            for column in self.table[:, start : start + self.BAND].T:
                mixed = (mixed ^ column) * _MIX
                mixed ^= mixed >> np.uint64(31)
            yield mixed


def candidate_pairs(
    one: Signatures,
    other: Signatures | None = None,
    settings: NDArray[np.uint64] | None = None,
) -> NDArray[np.int64]:
    """(n, 2): texts that share a band and whose signatures agree in one value out of seven.

    They are of one set, or the first of one and the second of another. Texts of one set with
    different `settings`, a number for each, share no band. Of many texts in one band, each is
    compared with a few only: those that are alike are linked in a chain.
    """
    ours, theirs = one.table, (other or one).table
    found: set[int] = set()
    if len(ours) and len(theirs):
        for first, second in _meetings(one, other, settings):
            alike = (ours[first] == theirs[second]).mean(axis=1) >= ESTIMATE
            found.update((first[alike] * len(theirs) + second[alike]).tolist())
    merged = np.array(sorted(found), dtype=np.int64)
    return np.stack(np.divmod(merged, max(1, len(theirs))), axis=1)


def _meetings(
    one: Signatures, other: Signatures | None, settings: NDArray[np.uint64] | None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Texts that are equal in one band after another: their indices, paired."""
    others = iter(()) if other is None else other.bands()
    for alike in one.bands():
        band = alike if settings is None else alike ^ settings
        order = np.argsort(band, kind="stable")
        ordered, values = band[order], next(others, None)
        start = 0 if values is None else np.searchsorted(ordered, values)
        for step in range(_NEIGHBOURS):
            if values is None:
                same = ordered[step + 1 :] == ordered[: -step - 1]
                yield order[: -step - 1][same], order[step + 1 :][same]
            else:
                place = np.minimum(start + step, len(ordered) - 1)
                rows = np.flatnonzero((ordered[place] == values) & (start + step < len(ordered)))
                yield order[place[rows]], rows


class Clusters:
    """Which numbers belong together."""

    def __init__(self, size: int) -> None:
        self._above = list(range(size))

    def first_of(self, number: int) -> int:
        """The smallest number of a cluster."""
        above = self._above
        while above[number] != number:
            above[number] = above[above[number]]
            number = above[number]
        return number

    def join(self, one: int, two: int) -> None:
        """Put two clusters together."""
        one, two = self.first_of(one), self.first_of(two)
        self._above[max(one, two)] = min(one, two)
