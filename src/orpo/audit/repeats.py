"""Rows that repeat or contradict each other, and prompts that are in two sets: exactly or nearly.

Exact ones are told by hashes, those that nearly are by `orpo.audit.similar`.
"""

from array import array
from collections.abc import Iterable

import numpy as np

from orpo.audit import similar
from orpo.audit.faults import PairView, opposite
from orpo.audit.findings import Check, Told
from orpo.audit.similar import Hashes, Signatures, WordStore, WordWeights

NEAR_ROWS = 300_000
"""Rows among which near duplicates are looked for: about 2 KB are kept of each."""

_CHOSEN_WORDS, _REJECTED_WORDS = 256, 128


class Duplicates(Check):
    """Rows that are those of an earlier row."""

    name = "exact_duplicates"

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[bytes, str] = {}  # of the first row of each key
        self._weights: dict[bytes, float] = {}  # other than 1
        self._prompts: set[int] = set()

    def _look(self, pair: PairView) -> None:
        self.kinds["prompts"] += pair.prompt_key in self._prompts
        self._prompts.add(pair.prompt_key)
        if pair.key in self.places:
            self.kinds["other_weight"] += pair.weight != self._weights.get(pair.key, 1.0)
            self.found(pair.where, f"{pair.prompt} → {pair.chosen}", self.places[pair.key])
        else:
            self.places[pair.key] = pair.where
            if pair.weight != 1:
                self._weights[pair.key] = pair.weight

    def _told(self) -> Told:
        other = self.kinds["other_weight"]
        words = {"weighted": f"; {other:,} with another weight" if other else ""}
        return {"repeated_prompts": self.kinds["prompts"], "other_weight": other}, words


class Contradictions(Check):
    """Rows that prefer the opposite of an earlier one.

    To prefer A to B here and B to C there is no contradiction: ranked answers do that.
    """

    name = "contradictions"

    def __init__(self, duplicates: Duplicates) -> None:
        super().__init__()
        self._places = duplicates.places

    def _look(self, pair: PairView) -> None:
        other = self._places.get(opposite(pair.key))
        if other is not None:
            self.found(pair.where, f"{pair.prompt} → {pair.chosen}", other)


class NearDuplicates(Check):
    """Rows whose prompt and answers are nearly those of another row.

    Rows with other system messages, tools or speakers are not: they ask for something else. Exact
    duplicates are counted elsewhere and are not to be added.
    """

    name = "near_duplicates"

    def __init__(self) -> None:
        super().__init__()
        self.left_out = 0
        self._signatures, self._weights = Signatures(), WordWeights()
        self._asked, self._chosen, self._rejected = WordStore(), WordStore(), WordStore()
        self._places: list[tuple[str, str]] = []
        self._settings = array("Q")

    def _look(self, pair: PairView) -> None:
        self.keep(pair)

    def keep(self, pair: PairView) -> bool:
        """Keep a row's words; whether there were any, and room for them."""
        if len(self._places) >= NEAR_ROWS:
            self.left_out += 1
            return False
        asked, chosen = pair.asked, similar.words(pair.chosen, _CHOSEN_WORDS)
        whole = np.concatenate([asked, chosen])
        if not len(whole):
            return False
        self._signatures.add(similar.shingles(whole))
        self._weights.count(whole)
        self._asked.add(asked)
        self._chosen.add(chosen)
        self._rejected.add(similar.words(pair.rejected or "", _REJECTED_WORDS))
        self._settings.append(pair.setting_key)
        self._places.append((pair.where, (pair.prompt[-90:] + " → " + pair.chosen)[:200]))
        return True

    def _told(self) -> Told:
        self.of = len(self._places)
        for row, earlier in self.copies():
            self.found(*self._places[row], self._places[earlier][0])
        return {}, {}

    def copies(self) -> list[tuple[int, int]]:
        """(row, the first row that it repeats), for each row of a cluster but its first.

        Rows are numbered in the order in which `add` kept them.
        """
        clusters = similar.Clusters(len(self._places))
        settings = np.asarray(self._settings, np.uint64)
        for one, two in similar.candidate_pairs(self._signatures, settings=settings).tolist():
            if clusters.first_of(one) != clusters.first_of(two) and self._alike(one, two):
                clusters.join(one, two)
        firsts = [(row, clusters.first_of(row)) for row in range(len(self._places))]
        return [(row, first) for row, first in firsts if first != row]

    def _alike(self, one: int, two: int) -> bool:
        rows = [np.concatenate([self._asked[row], self._chosen[row]]) for row in (one, two)]
        if not similar.nearly_same(rows[0], rows[1], self._weights, similar.SIMILAR):
            return False
        return all(self._same(store[one], store[two]) for store in (self._chosen, self._rejected))

    def _same(self, one: Hashes, two: Hashes) -> bool:
        if min(len(one), len(two)) < similar.FEW_WORDS:
            return len(one) == len(two) == 0 or bool(len(np.intersect1d(one, two)))
        return similar.similarity(one, two, self._weights) >= similar.SIMILAR_ANSWER


class Leakage(Check):
    """Evaluation prompts that are training prompts, but for case and white space.

    All evaluation pairs come first (`hold`), then the training pairs (`add`).
    """

    name = "leakage"

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[int, list[tuple[str, str]]] = {}
        self._leaked: dict[int, str] = {}

    def hold(self, pair: PairView) -> None:
        """Take an evaluation pair."""
        self._held.setdefault(pair.question_key, []).append((pair.where, pair.prompt[:200]))

    def _look(self, pair: PairView) -> None:
        if pair.question_key in self._held:
            self.kinds["rows"] += 1
            self._leaked.setdefault(pair.question_key, pair.where)

    def _told(self) -> Told:
        self.of = sum(map(len, self._held.values()))
        for key, train_where in self._leaked.items():
            for where, text in self._held[key]:
                self.found(where, text, train_where)
        return {"train_rows": self.kinds["rows"]}, self.kinds


class _Prompts:
    """Different prompts of one data set, up to case and white space, as words and signatures."""

    def __init__(self, weights: WordWeights) -> None:
        self.signatures, self.words, self._weights = Signatures(), WordStore(), weights
        self.places: list[tuple[str, str]] = []
        self.rows: list[int] = []
        self.numbers: dict[int, int] = {}

    def add(self, pair: PairView, least: int = 1) -> bool:
        """Keep a prompt of so many words; whether there was room."""
        key, asked = pair.question_key, pair.asked
        if key in self.numbers:
            self.rows[self.numbers[key]] += 1
        elif len(asked) >= least and len(self.places) >= NEAR_ROWS:
            return False
        elif len(asked) >= least:
            self.numbers[key] = len(self.places)
            self.rows.append(1)
            self.places.append((pair.where, pair.prompt[-200:]))
            self.signatures.add(similar.shingles(asked))
            self.words.add(asked)
            self._weights.count(asked)
        return True


class NearLeakage(Check):
    """Evaluation prompts that nearly are training prompts: some words differ.

    All evaluation pairs come first (`hold`), then the training pairs (`add`). A prompt that is the
    same but for case and white space is `Leakage`'s.
    """

    name = "near_leakage"

    def __init__(self) -> None:
        super().__init__()
        self.left_out = self._rows = 0
        self._weights = WordWeights()
        self._held, self._trained = _Prompts(self._weights), _Prompts(self._weights)

    def hold(self, pair: PairView) -> None:
        """Take an evaluation pair."""
        self._rows += 1
        self.left_out += not self._held.add(pair)

    def _look(self, pair: PairView) -> None:
        self.left_out += not self._trained.add(pair)

    def _told(self) -> Told:
        self.of = self._rows
        ours, theirs = self._held, self._trained
        keys, alike = list(ours.numbers), dict[int, int]()
        for held, trained in similar.candidate_pairs(ours.signatures, theirs.signatures).tolist():
            if held not in alike and keys[held] not in theirs.numbers:
                one, two, least = ours.words[held], theirs.words[trained], similar.SIMILAR_PROMPT
                if similar.nearly_same(one, two, self._weights, least):
                    alike[held] = trained
        for held, trained in sorted(alike.items()):
            for _ in range(ours.rows[held]):
                self.found(*ours.places[held], theirs.places[trained][0])
        return {}, {}


def near_prompts(pairs: Iterable[PairView]) -> dict[int, int]:
    """Prompt -> the prompt that stands for all that resemble it, directly or through others."""
    weights = WordWeights()
    prompts = _Prompts(weights)
    for pair in pairs:
        prompts.add(pair, similar.FEW_WORDS)
    clusters, asked = similar.Clusters(len(prompts.numbers)), prompts.words
    for one, two in similar.candidate_pairs(prompts.signatures).tolist():
        if similar.similarity(asked[one], asked[two], weights) >= similar.SIMILAR_PROMPT:
            clusters.join(one, two)
    names = list(prompts.numbers)
    return {key: names[clusters.first_of(number)] for key, number in prompts.numbers.items()}
