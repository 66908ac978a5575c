"""Prompts of the evaluation data that are in the training data too, or nearly so."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orpo.audit.findings import Finding, Tally, amount, grade, percent
from orpo.audit.near import NEAR_ROWS, WordWeights, nearly_same
from orpo.audit.shingles import Signatures, WordStore, shingles
from orpo.audit.views import PairView

__all__ = ["LEAK_STOP", "NEAR_LEAK_LOOK", "NearLeakage", "PromptLeakage"]

LEAK_STOP = 0.01
"""A model that has seen the question is not tested by it. Below one in a hundred the figures hardly
move; from there on they are no longer what they claim to be."""

NEAR_LEAK_LOOK = 0.01
"""Similar questions in both sets are normal; one in a hundred is worth reading."""

NEAR_LEAK_STOP = 0.50
"""Where half of the evaluation resembles the training data, the split was made after copying."""

SIMILAR_PROMPT = 0.75
"""As `near.SIMILAR`. Prompts are short, so it is higher than for whole rows."""

_ESTIMATE = 0.15
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
        found = Tally()
        for key, train_where in self._leaked.items():
            for where, text in self._held[key]:
                found.add(where, text, train_where)
        share = found.count / max(1, self._rows)
        says = (
            f"{amount(found.count, 'evaluation row')} ({percent(share)}) "
            f"{'has its prompt' if found.count == 1 else 'have their prompts'} in the training "
            f"data, in {amount(self._train_rows, 'row')} there: the evaluation measures memory."
        )
        return Finding(
            "leakage",
            "Evaluation prompts in the training data",
            grade(share, 0.0, LEAK_STOP),
            found.count,
            self._rows,
            says if found.count else "No evaluation prompt is in the training data.",
            "Split by prompt: orpo data fix --held_out 0.05, or orpo train --held_out 0.05."
            if found.count
            else "",
            found.shown,
            {"train_rows": float(self._train_rows)},
        )


class NearLeakage:
    """Evaluation prompts that nearly are training prompts: some words differ.

    All evaluation pairs come first (`hold`), then the training pairs (`add`). A prompt that is the
    same but for case and white space is `PromptLeakage`'s.
    """

    def __init__(self) -> None:
        self.left_out = 0
        self._held, self._trained = _Prompts(), _Prompts()
        self._weights = WordWeights()
        self._rows = 0

    def hold(self, pair: PairView) -> None:
        """Take an evaluation pair."""
        self._rows += 1
        self.left_out += not self._held.add(pair, self._weights)

    def add(self, pair: PairView) -> None:
        """Take a training pair."""
        self.left_out += not self._trained.add(pair, self._weights)

    def finding(self) -> Finding:
        """Compare, and say what was found."""
        found = Tally()
        for held, trained in self._alike():
            (where, text), rows = self._held.places[held], self._held.rows[held]
            for _ in range(rows):
                found.add(where, text, self._trained.places[trained][0])
        share = found.count / max(1, self._rows)
        return Finding(
            "near_leakage",
            "Evaluation prompts nearly in the training data",
            grade(share, NEAR_LEAK_LOOK, NEAR_LEAK_STOP),
            found.count,
            self._rows,
            f"{amount(found.count, 'evaluation prompt')} ({percent(share)}) nearly repeat a "
            "training prompt: a few words differ."
            if found.count
            else "No evaluation prompt is nearly a training prompt.",
            "Read the examples; leave out of one set what asks the same." if found.count else "",
            found.shown,
        )

    def _alike(self) -> list[tuple[int, int]]:
        """(evaluation prompt, a training prompt that is nearly the same)."""
        found: dict[int, int] = {}
        for held, trained in _candidates(self._held.signatures, self._trained.signatures):
            same = self._held.keys[held] in self._trained.numbers
            if held in found or same:
                continue
            ours, theirs = self._held.words[held], self._trained.words[trained]
            if nearly_same(ours, theirs, self._weights, SIMILAR_PROMPT):
                found[held] = trained
        return sorted(found.items())


class _Prompts:
    """Different prompts of one data set, up to case and white space."""

    def __init__(self) -> None:
        self.signatures, self.words = Signatures(), WordStore()
        self.places: list[tuple[str, str]] = []
        self.rows: list[int] = []
        self.keys: list[int] = []
        self.numbers: dict[int, int] = {}

    def add(self, pair: PairView, weights: WordWeights) -> bool:
        """Keep a prompt's words; whether there was room."""
        key = pair.question_key
        if key in self.numbers:
            self.rows[self.numbers[key]] += 1
            return True
        asked = pair.asked
        if not len(asked):
            return True
        if len(self.places) >= NEAR_ROWS:
            return False
        self.numbers[key] = len(self.places)
        self.keys.append(key)
        self.rows.append(1)
        self.places.append((pair.where, pair.prompt[-200:]))
        self.signatures.add(shingles(asked))
        self.words.add(asked)
        weights.count(np.unique(asked))
        return True


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
            alike = (ours[first] == theirs[second]).mean(axis=1) >= _ESTIMATE
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
