"""Rows that repeat or contradict each other, word for word or nearly.

Exact ones are told by hashes. Nearly the same says a row with some words changed, put in or moved:
candidates share a band of their MinHash signatures; each is then compared in full, by words. Rare
words count more than common ones, so that two questions of one pattern ("convert 5 km to m",
"convert 8 kg to g") are not taken for each other's copy.
"""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from orpo.audit.findings import Finding, Rule, Tally, amount, percent
from orpo.audit.shingles import (
    IDEOGRAPH,
    NUMBER,
    Hashes,
    Signatures,
    WordStore,
    shingles,
    words,
)
from orpo.audit.views import PairView, opposite

# A repeated row counts double in the loss; below one in a thousand nobody could measure that. With
# a fifth of the rows repeated, a file was most likely joined to itself.
DUPLICATES = Rule(
    "exact_duplicates",
    "Exact duplicates",
    look=0.001,
    stop=0.20,
    none="No row is there twice.",
    do="Keep one of each: orpo data fix removes repeated rows.",
)
# Two rows that say the opposite cancel each other. Annotators disagree now and then; at one row in
# twenty the columns of a part of the data are probably swapped.
CONTRADICTIONS = Rule(
    "contradictions",
    "Contradictory preferences",
    look=0.0,
    stop=0.05,
    none="No two rows prefer the opposite of each other.",
    do="Decide which of the two is right, or leave both out.",
)
# Questions of one pattern look alike in honest data too; one row in a hundred is worth a look. With
# a third of the rows nearly repeated, the data are much smaller than they look.
NEAR = Rule(
    "near_duplicates",
    "Near duplicates",
    look=0.01,
    stop=0.30,
    none="No row is nearly the same as another.",
    do="Read the examples; orpo data fix --deduplicate near keeps one of each.",
)

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

ESTIMATE = 0.15
"""Signatures that agree in a smaller share of their values are not worth a comparison."""

_CHOSEN_WORDS, _REJECTED_WORDS = 256, 128
_MANY = 0.3
_NEIGHBOURS = 4
_BUCKETS = 1 << 20


class Repeats:
    """Rows that are those of an earlier row, and rows that prefer the opposite of an earlier one.

    To prefer A to B here and B to C there is no contradiction: ranked answers do that.
    """

    def __init__(self) -> None:
        self._duplicates, self._contradictions = Tally(), Tally()
        self._places: dict[bytes, str] = {}
        self._weights: dict[bytes, float] = {}  # other than 1
        self._prompts: set[int] = set()

    def add(self, pair: PairView) -> bool:
        """Look at a pair; whether it repeats an earlier one."""
        repeated = self._duplicates
        repeated.of += 1
        self._contradictions.of += pair.rejected is not None
        repeated.kinds["prompts"] += pair.prompt_key in self._prompts
        self._prompts.add(pair.prompt_key)
        own, other = pair.key, self._places.get(opposite(pair.key))
        if other is not None:
            self._contradictions.add(pair.where, f"{pair.prompt} → {pair.chosen}", other)
        if own not in self._places:
            self._places[own] = pair.where
            if pair.weight != 1:
                self._weights[own] = pair.weight
            return False
        repeated.kinds["other_weight"] += pair.weight != self._weights.get(own, 1.0)
        repeated.add(pair.where, f"{pair.prompt} → {pair.chosen}", self._places[own])
        return True

    def findings(self) -> tuple[Finding, Finding]:
        """Rows that are there twice, and rows that prefer the opposite of an earlier one."""
        found, other_weight = self._duplicates, self._duplicates.kinds["other_weight"]
        told = (
            f"{amount(found.count, 'row')} ({percent(found.share)}) "
            f"{'repeats an earlier one' if found.count == 1 else 'repeat earlier ones'} "
            "word for word and would count double"
            + (f"; {other_weight:,} with another weight" * bool(other_weight))
            + "."
        )
        figures = {
            "repeated_prompts": float(found.kinds["prompts"]),
            "other_weight": float(other_weight),
        }
        against = self._contradictions
        opposed = (
            f"{amount(against.count, 'row')} ({percent(against.share)}) "
            f"{'prefers' if against.count == 1 else 'prefer'} the answer that an earlier row with "
            "the same prompt rejects, and the other way round: together they teach nothing."
        )
        return (
            DUPLICATES.finding(found, told if found.count else "", figures),
            CONTRADICTIONS.finding(against, opposed if against.count else ""),
        )


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

    Texts with different `settings`, a number for each, share none. Of many texts in one band, each
    is compared with the next few only: those that are alike are linked in a chain.
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
            alike = (table[first] == table[second]).mean(axis=1) >= ESTIMATE
            found.update((first[alike] * len(table) + second[alike]).tolist())
    merged = np.array(sorted(found), dtype=np.int64)
    return np.stack(np.divmod(merged, max(1, len(table))), axis=1)


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
        found = Tally(of=len(self._places))
        for row, earlier in self.copies():
            where, text = self._places[row]
            found.add(where, text, self._places[earlier][0])
        told = (
            f"{amount(found.count, 'row')} ({percent(found.share)}) say nearly the same as an "
            "earlier one, in prompt and answers: a few words differ, or their order."
        )
        return NEAR.finding(found, told if found.count else "")

    def copies(self) -> list[tuple[int, int]]:
        """(row, the first row that it repeats), for each row of a cluster but its first.

        Rows are numbered in the order in which `add` kept them.
        """
        clusters = Clusters(len(self._places))
        settings = np.asarray(self._settings, np.uint64)
        for one, two in candidate_pairs(self._signatures, settings).tolist():
            if clusters.first_of(one) != clusters.first_of(two) and self._alike(one, two):
                clusters.join(one, two)
        firsts = [(row, clusters.first_of(row)) for row in range(len(self._places))]
        return [(row, first) for row, first in firsts if first != row]

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
