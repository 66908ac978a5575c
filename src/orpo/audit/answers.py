"""Checks of single pairs: texts that are empty, answers that are the same."""

from __future__ import annotations

from orpo.audit.findings import Finding, Tally, amount, grade, percent
from orpo.audit.views import PairView

__all__ = ["EMPTY_STOP", "IDENTICAL_STOP", "EmptyTexts", "IdenticalAnswers"]

EMPTY_STOP = 0.05
"""A few empty texts are slips of the people or scripts that wrote them and are dropped; one in
twenty says that a column was read or exported wrongly."""

IDENTICAL_STOP = 0.20
"""Identical answers are dropped or teach nothing; where a fifth of all pairs has no preference, the
preferences were not collected as intended."""


class EmptyTexts:
    """Prompts and answers without a text."""

    def __init__(self) -> None:
        self._found, self._rows = Tally(), 0
        self._by_part = {"prompt": 0, "chosen": 0, "rejected": 0}

    def add(self, pair: PairView) -> None:
        """Look at a pair."""
        self._rows += 1
        texts = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
        empty = [name for name, text in texts.items() if text is not None and not text.strip()]
        for name in empty:
            self._by_part[name] += 1
        if empty:
            told = "; ".join(f"{n}: {t}" for n, t in texts.items() if t and n not in empty)
            self._found.add(pair.where, f"empty {' and '.join(empty)}; {told}")

    def finding(self) -> Finding:
        """What was found."""
        found, rows = self._found, self._rows
        parts = [f"{n:,} {name}" for name, n in self._by_part.items() if n]
        told = f"{amount(found.count, 'pair')} with an empty text ({', '.join(parts)})."
        return Finding(
            "empty_texts",
            "Empty prompts and answers",
            grade(found.count / max(1, rows), 0.0, EMPTY_STOP),
            found.count,
            rows,
            f"{told} Pairs with an empty answer are dropped." if parts else "No text is empty.",
            "Delete or complete these rows: orpo data fix drops them." if parts else "",
            found.shown,
            {f"empty_{name}": float(n) for name, n in self._by_part.items()},
        )


class IdenticalAnswers:
    """Pairs whose answers are the same, or differ in white space only."""

    def __init__(self) -> None:
        self._found, self._pairs, self._exact = Tally(), 0, 0

    def add(self, pair: PairView) -> None:
        """Look at a pair."""
        if pair.rejected is None:
            return
        self._pairs += 1
        exact = pair.chosen == pair.rejected
        if exact or pair.chosen.split() == pair.rejected.split():
            self._exact += exact
            self._found.add(pair.where, pair.chosen)

    def finding(self) -> Finding:
        """What was found."""
        found, pairs = self._found, self._pairs
        share = found.count / max(1, pairs)
        spaced = found.count - self._exact
        says = (
            f"Both answers are the same in {amount(found.count, 'pair')} ({percent(share)})"
            + (f", in {spaced:,} of them but for white space" * bool(spaced))
            + ": there is nothing to prefer."
        )
        return Finding(
            "identical_answers",
            "Identical answers",
            grade(share, 0.0, IDENTICAL_STOP),
            found.count,
            pairs,
            says if found.count else "The two answers of every pair differ.",
            "Remove these pairs: orpo data fix drops them." if found.count else "",
            found.shown,
            {"exact": float(self._exact), "white_space_only": float(spaced)},
        )
