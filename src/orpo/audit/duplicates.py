"""Rows that repeat or contradict each other, exactly; hashes are kept of them, not texts."""

from __future__ import annotations

from orpo.audit.findings import Finding, Tally, amount, grade, percent
from orpo.audit.views import PairView

__all__ = ["CONTRADICTION_STOP", "DUPLICATE_LOOK", "DUPLICATE_STOP", "Repeats"]

DUPLICATE_LOOK = 0.001
"""A repeated row counts double in the loss; below one in a thousand nobody could measure that."""

DUPLICATE_STOP = 0.20
"""With a fifth of the rows repeated, a file was most likely joined to itself."""

CONTRADICTION_STOP = 0.05
"""Two rows that say the opposite cancel each other. Annotators disagree now and then; at one row in
twenty the columns of a part of the data are probably swapped."""


class Repeats:
    """Rows that are those of an earlier row, and rows that prefer the opposite of an earlier one.

    To prefer A to B here and B to C there is no contradiction: ranked answers do that.
    """

    def __init__(self) -> None:
        self._rows = self._pairs = self._repeated_prompts = 0
        self._duplicates, self._contradictions = Tally(), Tally()
        self._places: dict[int, str] = {}
        self._weights: dict[int, float] = {}  # other than 1
        self._other_weight = 0
        self._prompts: set[int] = set()

    def add(self, pair: PairView) -> bool:
        """Look at a pair; whether it repeats an earlier one."""
        self._rows += 1
        self._pairs += pair.rejected is not None
        prompt, chosen, rejected = pair.prompt_key, pair.chosen_key, pair.rejected_key
        self._repeated_prompts += prompt in self._prompts
        self._prompts.add(prompt)
        # The hash of a tuple of whole numbers is the same in every process.
        own, opposite = hash((prompt, chosen, rejected)), hash((prompt, rejected, chosen))
        if own != opposite and opposite in self._places:
            text = f"{pair.prompt} → {pair.chosen}"
            self._contradictions.add(pair.where, text, self._places[opposite])
        if own not in self._places:
            self._places[own] = pair.where
            if pair.weight != 1:
                self._weights[own] = pair.weight
            return False
        self._other_weight += pair.weight != self._weights.get(own, 1.0)
        self._duplicates.add(pair.where, f"{pair.prompt} → {pair.chosen}", self._places[own])
        return True

    def duplicates(self) -> Finding:
        """Rows that are there twice."""
        found = self._duplicates
        share = found.count / max(1, self._rows)
        says = (
            f"{amount(found.count, 'row')} ({percent(share)}) "
            f"{'repeats an earlier one' if found.count == 1 else 'repeat earlier ones'} "
            "word for word and would count double"
            + (f"; {self._other_weight:,} with another weight" * bool(self._other_weight))
            + "."
        )
        return Finding(
            "exact_duplicates",
            "Exact duplicates",
            grade(share, DUPLICATE_LOOK, DUPLICATE_STOP),
            found.count,
            self._rows,
            says if found.count else "No row is there twice.",
            "Keep one of each: orpo data fix removes repeated rows." if found.count else "",
            found.shown,
            {
                "repeated_prompts": float(self._repeated_prompts),
                "other_weight": float(self._other_weight),
            },
        )

    def contradictions(self) -> Finding:
        """Rows that prefer the opposite of an earlier one."""
        found = self._contradictions
        share = found.count / max(1, self._pairs)
        says = (
            f"{amount(found.count, 'row')} ({percent(share)}) "
            f"{'prefers' if found.count == 1 else 'prefer'} the answer that an earlier row with "
            "the same prompt rejects, and the other way round: together they teach nothing."
        )
        return Finding(
            "contradictions",
            "Contradictory preferences",
            grade(share, 0.0, CONTRADICTION_STOP),
            found.count,
            self._pairs,
            says if found.count else "No two rows prefer the opposite of each other.",
            "Decide which of the two is right, or leave both out." if found.count else "",
            found.shown,
        )
