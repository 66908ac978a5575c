"""Prompts that are in two sets, or nearly: leaked ones, and those that a split keeps together."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from orpo.audit.findings import Finding, Rule, Tally, amount, percent
from orpo.audit.repeats import (
    ESTIMATE,
    FEW_WORDS,
    NEAR_ROWS,
    Clusters,
    WordWeights,
    candidate_pairs,
    nearly_same,
    similarity,
)
from orpo.audit.shingles import Signatures, WordStore, shingles
from orpo.audit.views import PairView

# A model that has seen the question is not tested by it. Below one in a hundred the figures hardly
# move; from there on they are no longer what they claim to be.
LEAKAGE = Rule(
    "leakage",
    "Evaluation prompts in the training data",
    look=0.0,
    stop=0.01,
    none="No evaluation prompt is in the training data.",
    do="Split by prompt: orpo data fix --held_out 0.05, or orpo train --held_out 0.05.",
)
# Similar questions in both sets are normal; one in a hundred is worth reading. Where half of the
# evaluation resembles the training data, the split was made after copying.
NEAR_LEAKAGE = Rule(
    "near_leakage",
    "Evaluation prompts nearly in the training data",
    look=0.01,
    stop=0.50,
    none="No evaluation prompt is nearly a training prompt.",
    do="Read the examples; leave out of one set what asks the same.",
)

SIMILAR_PROMPT = 0.75
"""As `repeats.SIMILAR`. Prompts are short, so it is higher than for whole rows."""

_MATCHES = 4


class PromptLeakage:
    """Evaluation prompts that are training prompts, but for case and white space.

    All evaluation pairs come first (`hold`), then the training pairs (`add`).
    """

    def __init__(self) -> None:
        self._held: dict[int, list[tuple[str, str]]] = {}
        self._leaked: dict[int, str] = {}
        self._rows = self._train_rows = 0

    def hold(self, pair: PairView) -> None:
        """Take an evaluation pair."""
        self._rows += 1
        places = self._held.setdefault(pair.question_key, [])
        places.append((pair.where, pair.prompt[:200]))

    def add(self, pair: PairView) -> None:
        """Look at a training pair."""
        key = pair.question_key
        if key in self._held:
            self._train_rows += 1
            self._leaked.setdefault(key, pair.where)

    def finding(self) -> Finding:
        """What was found."""
        found = Tally(of=self._rows)
        for key, train_where in self._leaked.items():
            for where, text in self._held[key]:
                found.add(where, text, train_where)
        told = (
            f"{amount(found.count, 'evaluation row')} ({percent(found.share)}) "
            f"{'has its prompt' if found.count == 1 else 'have their prompts'} in the training "
            f"data, in {amount(self._train_rows, 'row')} there: the evaluation measures memory."
        )
        figures = {"train_rows": float(self._train_rows)}
        return LEAKAGE.finding(found, told if found.count else "", figures)


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
            return True
        if len(asked) < least:
            return True
        if len(self.places) >= NEAR_ROWS:
            return False
        self.numbers[key] = len(self.places)
        self.rows.append(1)
        self.places.append((pair.where, pair.prompt[-200:]))
        self.signatures.add(shingles(asked))
        self.words.add(asked)
        self._weights.count(np.unique(asked))
        return True


class NearLeakage:
    """Evaluation prompts that nearly are training prompts: some words differ.

    All evaluation pairs come first (`hold`), then the training pairs (`add`). A prompt that is the
    same but for case and white space is `PromptLeakage`'s.
    """

    def __init__(self) -> None:
        self.left_out = self._rows = 0
        self._weights = WordWeights()
        self._held, self._trained = _Prompts(self._weights), _Prompts(self._weights)

    def hold(self, pair: PairView) -> None:
        """Take an evaluation pair."""
        self._rows += 1
        self.left_out += not self._held.add(pair)

    def add(self, pair: PairView) -> None:
        """Take a training pair."""
        self.left_out += not self._trained.add(pair)

    def finding(self) -> Finding:
        """Compare, and say what was found."""
        found = Tally(of=self._rows)
        for held, trained in self._alike():
            where, text = self._held.places[held]
            for _ in range(self._held.rows[held]):
                found.add(where, text, self._trained.places[trained][0])
        told = (
            f"{amount(found.count, 'evaluation prompt')} ({percent(found.share)}) nearly repeat a "
            "training prompt: a few words differ."
        )
        return NEAR_LEAKAGE.finding(found, told if found.count else "")

    def _alike(self) -> list[tuple[int, int]]:
        """(evaluation prompt, a training prompt that is nearly the same)."""
        held_keys, found = list(self._held.numbers), dict[int, int]()
        for held, trained in _candidates(self._held.signatures, self._trained.signatures):
            if held in found or held_keys[held] in self._trained.numbers:
                continue
            ours, theirs = self._held.words[held], self._trained.words[trained]
            if nearly_same(ours, theirs, self._weights, SIMILAR_PROMPT):
                found[held] = trained
        return sorted(found.items())


def near_prompts(pairs: Iterable[PairView]) -> dict[int, int]:
    """Prompt -> the prompt that stands for all that resemble it, directly or through others."""
    weights = WordWeights()
    prompts = _Prompts(weights)
    for pair in pairs:
        prompts.add(pair, FEW_WORDS)
    if not prompts.numbers:
        return {}
    clusters, asked = Clusters(len(prompts.numbers)), prompts.words
    for one, two in candidate_pairs(prompts.signatures).tolist():
        if similarity(asked[one], asked[two], weights) >= SIMILAR_PROMPT:
            clusters.join(one, two)
    names = list(prompts.numbers)
    return {key: names[clusters.first_of(number)] for key, number in prompts.numbers.items()}


def _candidates(held: Signatures, trained: Signatures) -> list[tuple[int, int]]:
    """(evaluation, training) prompts that share a band and whose signatures agree enough."""
    found: set[tuple[int, int]] = set()
    ours, theirs = held.table, trained.table
    if not len(ours) or not len(theirs):
        return []
    for held_band, band in zip(held.bands(), trained.bands(), strict=True):
        order = np.argsort(held_band, kind="stable")
        for rows, matches in _equal(held_band[order], band):
            first, second = order[matches], rows
            alike = (ours[first] == theirs[second]).mean(axis=1) >= ESTIMATE
            found.update(zip(first[alike].tolist(), second[alike].tolist(), strict=True))
    return sorted(found)


def _equal(
    ordered: NDArray[np.uint64], values: NDArray[np.uint64]
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Indices of values, and of the first, second, ... equal number among the ordered ones."""
    start = np.searchsorted(ordered, values)
    pairs = []
    for step in range(_MATCHES):
        place = np.minimum(start + step, len(ordered) - 1)
        same = np.flatnonzero((ordered[place] == values) & (start + step < len(ordered)))
        pairs.append((same, place[same]))
    return pairs
