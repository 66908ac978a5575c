"""Rows that repeat or contradict each other, and prompts that are in two sets: exactly or nearly.

Exact ones are told by hashes, those that nearly are by `orpo.audit.similar`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np

from orpo.audit import similar
from orpo.audit.findings import Check, Finding, amount, percent
from orpo.audit.similar import Hashes, Signatures, WordStore, WordWeights
from orpo.audit.views import PairView, opposite

NEAR_ROWS = 300_000
"""Rows among which near duplicates are looked for: about 2 KB are kept of each."""

_CHOSEN_WORDS, _REJECTED_WORDS = 256, 128


class Duplicates(Check):
    """Rows that are those of an earlier row.

    A repeated row counts double in the loss; below one in a thousand nobody could measure that.
    With a fifth of the rows repeated, a file was most likely joined to itself.
    """

    name, title, look, stop = "exact_duplicates", "Exact duplicates", 0.001, 0.20
    none, do = "No row is there twice.", "Keep one of each: orpo data fix removes repeated rows."

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[bytes, str] = {}  # of the first row of each key
        self._weights: dict[bytes, float] = {}  # other than 1
        self._prompts: set[int] = set()

    def add(self, pair: PairView) -> bool:
        """Look at a pair; whether it repeats an earlier one."""
        self.of += 1
        self.kinds["prompts"] += pair.prompt_key in self._prompts
        self._prompts.add(pair.prompt_key)
        if pair.key not in self.places:
            self.places[pair.key] = pair.where
            if pair.weight != 1:
                self._weights[pair.key] = pair.weight
            return False
        self.kinds["other_weight"] += pair.weight != self._weights.get(pair.key, 1.0)
        self.found(pair.where, f"{pair.prompt} → {pair.chosen}", self.places[pair.key])
        return True

    def finding(self) -> Finding:
        """What was found."""
        other = self.kinds["other_weight"]
        return self.outcome(
            f"{amount(self.count, 'row')} ({percent(self.share)}) "
            f"{'repeats an earlier one' if self.count == 1 else 'repeat earlier ones'} word for "
            f"word and would count double{f'; {other:,} with another weight' * bool(other)}.",
            {"repeated_prompts": float(self.kinds["prompts"]), "other_weight": float(other)},
        )


class Contradictions(Check):
    """Rows that prefer the opposite of an earlier one: the two cancel each other.

    To prefer A to B here and B to C there is no contradiction: ranked answers do that. Annotators
    disagree now and then; at one row in twenty the columns of a part are probably swapped.
    """

    name, title, stop = "contradictions", "Contradictory preferences", 0.05
    none = "No two rows prefer the opposite of each other."
    do = "Decide which of the two is right, or leave both out."

    def __init__(self, duplicates: Duplicates) -> None:
        super().__init__()
        self._places = duplicates.places

    def add(self, pair: PairView) -> None:
        """Look at a pair."""
        self.of += pair.rejected is not None
        other = self._places.get(opposite(pair.key))
        if other is not None:
            self.found(pair.where, f"{pair.prompt} → {pair.chosen}", other)

    def finding(self) -> Finding:
        """What was found."""
        return self.outcome(
            f"{amount(self.count, 'row')} ({percent(self.share)}) "
            f"{'prefers' if self.count == 1 else 'prefer'} the answer that an earlier row with the "
            "same prompt rejects, and the other way round: together they teach nothing."
        )


class NearDuplicates(Check):
    """Rows whose prompt and answers are nearly those of another row.

    Rows with other system messages, tools or speakers are not: they ask for something else. Exact
    duplicates are counted elsewhere and are not to be added. Questions of one pattern look alike in
    honest data too; one row in a hundred is worth a look. With a third of the rows nearly repeated,
    the data are much smaller than they look.
    """

    name, title, look, stop = "near_duplicates", "Near duplicates", 0.01, 0.30
    none = "No row is nearly the same as another."
    do = "Read the examples; orpo data fix --deduplicate near keeps one of each."

    def __init__(self) -> None:
        super().__init__()
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

    def finding(self) -> Finding:
        """Compare all rows, and say what was found."""
        self.of = len(self._places)
        for row, earlier in self.copies():
            self.found(*self._places[row], self._places[earlier][0])
        return self.outcome(
            f"{amount(self.count, 'row')} ({percent(self.share)}) say nearly the same as an "
            "earlier one, in prompt and answers: a few words differ, or their order."
        )

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
        rows = (np.concatenate([self._asked[row], self._chosen[row]]) for row in (one, two))
        if not similar.nearly_same(*rows, self._weights, similar.SIMILAR):
            return False
        return all(self._same(store[one], store[two]) for store in (self._chosen, self._rejected))

    def _same(self, one: Hashes, two: Hashes) -> bool:
        if min(len(one), len(two)) < similar.FEW_WORDS:
            return len(one) == len(two) == 0 or bool(len(np.intersect1d(one, two)))
        return similar.similarity(one, two, self._weights) >= similar.SIMILAR_ANSWER


class Leakage(Check):
    """Evaluation prompts that are training prompts, but for case and white space.

    All evaluation pairs come first (`hold`), then the training pairs (`add`). A model that has seen
    the question is not tested by it. Below one in a hundred the figures hardly move; from there on
    they are no longer what they claim to be.
    """

    name, title, stop = "leakage", "Evaluation prompts in the training data", 0.01
    none = "No evaluation prompt is in the training data."
    do = "Split by prompt: orpo data fix --held_out 0.05, or orpo train --held_out 0.05."

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[int, list[tuple[str, str]]] = {}
        self._leaked: dict[int, str] = {}

    def hold(self, pair: PairView) -> None:
        """Take an evaluation pair."""
        self.of += 1
        self._held.setdefault(pair.question_key, []).append((pair.where, pair.prompt[:200]))

    def add(self, pair: PairView) -> None:
        """Look at a training pair."""
        if pair.question_key in self._held:
            self.kinds["rows"] += 1
            self._leaked.setdefault(pair.question_key, pair.where)

    def finding(self) -> Finding:
        """What was found."""
        for key, train_where in self._leaked.items():
            for where, text in self._held[key]:
                self.found(where, text, train_where)
        return self.outcome(
            f"{amount(self.count, 'evaluation row')} ({percent(self.share)}) "
            f"{'has its prompt' if self.count == 1 else 'have their prompts'} in the training "
            f"data, in {amount(self.kinds['rows'], 'row')} there: the evaluation measures memory.",
            {"train_rows": float(self.kinds["rows"])},
        )


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
    same but for case and white space is `Leakage`'s. Similar questions in both sets are normal; one
    in a hundred is worth reading. Where half of the evaluation resembles the training data, the
    split was made after copying.
    """

    name, title = "near_leakage", "Evaluation prompts nearly in the training data"
    look, stop = 0.01, 0.50
    none = "No evaluation prompt is nearly a training prompt."
    do = "Read the examples; leave out of one set what asks the same."

    def __init__(self) -> None:
        super().__init__()
        self.left_out = 0
        self._weights = WordWeights()
        self._held, self._trained = _Prompts(self._weights), _Prompts(self._weights)

    def hold(self, pair: PairView) -> None:
        """Take an evaluation pair."""
        self.of += 1
        self.left_out += not self._held.add(pair)

    def add(self, pair: PairView) -> None:
        """Take a training pair."""
        self.left_out += not self._trained.add(pair)

    def finding(self) -> Finding:
        """Compare, and say what was found."""
        ours, theirs = self._held, self._trained
        keys, alike = list(ours.numbers), dict[int, int]()
        for held, trained in similar.candidate_pairs(ours.signatures, theirs.signatures).tolist():
            if held not in alike and keys[held] not in theirs.numbers:
                texts = ours.words[held], theirs.words[trained]
                if similar.nearly_same(*texts, self._weights, similar.SIMILAR_PROMPT):
                    alike[held] = trained
        for held, trained in sorted(alike.items()):
            for _ in range(ours.rows[held]):
                self.found(*ours.places[held], theirs.places[trained][0])
        return self.outcome(
            f"{amount(self.count, 'evaluation prompt')} ({percent(self.share)}) nearly repeat a "
            "training prompt: a few words differ."
        )


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
