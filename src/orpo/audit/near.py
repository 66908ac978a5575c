"""Rows that say nearly the same as another row: some words changed, put in or moved.

Candidates share a band of their MinHash signatures; each is then compared in full, by words. Rare
words count more than common ones, so that two questions of one pattern ("convert 5 km to m",
"convert 8 kg to g") are not taken for each other's copy.
"""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from orpo.audit.findings import Finding, Tally, amount, grade, percent
from orpo.audit.shingles import (
    IDEOGRAPH,
    NUMBER,
    Hashes,
    Signatures,
    WordStore,
    shingles,
    words,
)
from orpo.audit.views import PairView

__all__ = [
    "NEAR_LOOK",
    "NEAR_ROWS",
    "NEAR_STOP",
    "NearDuplicates",
    "WordWeights",
    "candidate_pairs",
    "nearly_same",
    "similarity",
]

NEAR_LOOK = 0.01
"""Questions of one pattern look alike in honest data too; one row in a hundred is worth a look."""

NEAR_STOP = 0.30
"""With a third of the rows nearly repeated, the data are much smaller than they look."""

NEAR_ROWS = 300_000
"""Rows among which near duplicates are looked for: about 2 KB are kept of each."""

SIMILAR = 0.70
"""From here on prompt and chosen answer are nearly the same, by `similarity`. Of real rows with
every tenth word changed, more than 98 % lie above; of distinct real rows, those that continue one
conversation."""

SHORT, STRICTER = 40, 0.05
"""Texts of fewer words must be more alike by so much: questions of one pattern come close."""

SIMILAR_ANSWER = 0.40
"""The same for one answer alone, which is shorter. It tells a second answer to the same prompt,
which is no duplicate, from the same answer in other words."""

FEW_WORDS = 6
"""Texts with fewer words must agree in all of them; answers with fewer, in one."""

_CHOSEN_WORDS, _REJECTED_WORDS = 256, 128
_ESTIMATE = 0.15
_MANY = 0.3
_NEIGHBOURS = 4
_BUCKETS = 1 << 20


class WordWeights:
    """How much a word says: the rarer among the rows, the more (inverse document frequency)."""

    def __init__(self) -> None:
        self._rows = 0
        self._seen = np.zeros(_BUCKETS, np.uint32)

    def count(self, unique: Hashes) -> None:
        """Count a row's words, each once."""
        self._rows += 1
        self._seen[unique % _BUCKETS] += 1

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


def candidate_pairs(
    signatures: Signatures, settings: NDArray[np.uint64] | None = None
) -> NDArray[np.int64]:
    """(n, 2): texts that share a band and whose signatures agree in one value out of seven.

    Texts with different `settings`, a number for each, share none.

    Of many texts in one band, each is compared with the next few only: those that are alike are
    linked in a chain.
    """
    table = signatures.table
    found: set[int] = set()
    for alike_band in signatures.bands():
        band = alike_band if settings is None else alike_band ^ settings
        order = np.argsort(band, kind="stable")
        sorted_band = band[order]
        for step in range(1, _NEIGHBOURS + 1):
            same = sorted_band[step:] == sorted_band[:-step]
            first, second = order[:-step][same], order[step:][same]
            alike = (table[first] == table[second]).mean(axis=1) >= _ESTIMATE
            found.update((first[alike] * len(table) + second[alike]).tolist())
    merged = np.array(sorted(found), dtype=np.int64)
    return np.stack(np.divmod(merged, max(1, len(table))), axis=1)


class NearDuplicates:
    """Rows whose prompt and answers are nearly those of another row.

    Rows with other system messages, tools or speakers are not: they ask for something else.
    Exact duplicates are counted elsewhere and are not to be added.
    """

    def __init__(self) -> None:
        self.left_out = 0
        self._signatures, self._weights = Signatures(), WordWeights()
        self._asked, self._chosen, self._rejected = WordStore(), WordStore(), WordStore()
        self._places: list[tuple[str, str]] = []
        self._settings = array("Q")

    def add(self, pair: PairView) -> bool:
        """Keep a row's words; whether there were any, and room for them."""
        if len(self._places) >= NEAR_ROWS:
            self.left_out += 1
            return False
        asked, chosen = pair.asked, words(pair.chosen, _CHOSEN_WORDS)
        whole = np.concatenate([asked, chosen])
        if not len(whole):
            return False
        self._signatures.add(shingles(whole))
        self._weights.count(np.unique(whole))
        self._asked.add(asked)
        self._chosen.add(chosen)
        self._rejected.add(words(pair.rejected or "", _REJECTED_WORDS))
        self._settings.append(pair.setting_key)
        self._places.append((pair.where, (pair.prompt[-90:] + " → " + pair.chosen)[:200]))
        return True

    def finding(self) -> Finding:
        """Compare all rows, and say what was found."""
        rows, found = len(self._places), Tally()
        for row, earlier in self.copies():
            where, text = self._places[row]
            found.add(where, text, self._places[earlier][0])
        share = found.count / max(1, rows)
        return Finding(
            "near_duplicates",
            "Near duplicates",
            grade(share, NEAR_LOOK, NEAR_STOP),
            found.count,
            rows,
            f"{amount(found.count, 'row')} ({percent(share)}) say nearly the same as an earlier "
            "one, in prompt and answers: a few words differ, or their order."
            if found.count
            else "No row is nearly the same as another.",
            "Read the examples; orpo data fix --deduplicate near keeps one of each."
            if found.count
            else "",
            found.shown,
        )

    def copies(self) -> list[tuple[int, int]]:
        """(row, the first row that it repeats), for each row of a cluster but its first.

        Rows are numbered in the order in which `add` kept them.
        """
        root = list(range(len(self._places)))

        def find(row: int) -> int:
            while root[row] != row:
                root[row] = root[root[row]]
                row = root[row]
            return row

        settings = np.asarray(self._settings, np.uint64)
        for first, second in candidate_pairs(self._signatures, settings).tolist():
            one, two = find(first), find(second)
            if one != two and self._alike(first, second):
                root[max(one, two)] = min(one, two)
        return [(row, find(row)) for row in range(len(root)) if find(row) != row]

    _copies = copies  # `orpo data fix` reads it by this name

    def _alike(self, one: int, two: int) -> bool:
        asked, chosen = self._asked, self._chosen
        whole_one = np.concatenate([asked[one], chosen[one]])
        whole_two = np.concatenate([asked[two], chosen[two]])
        if not nearly_same(whole_one, whole_two, self._weights, SIMILAR):
            return False
        return all(self._same_answer(store[one], store[two]) for store in (chosen, self._rejected))

    def _same_answer(self, one: Hashes, two: Hashes) -> bool:
        if min(len(one), len(two)) < FEW_WORDS:
            return len(one) == len(two) == 0 or bool(len(np.intersect1d(one, two)))
        return similarity(one, two, self._weights) >= SIMILAR_ANSWER
