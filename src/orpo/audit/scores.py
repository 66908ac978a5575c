"""Scores that speak against the preference, and weights that silence most of the data."""

from __future__ import annotations

from array import array

import numpy as np

from orpo.audit.findings import Finding, Tally, amount, grade, percent
from orpo.audit.views import PairView

__all__ = ["AGAINST_STOP", "EFFECTIVE_LOOK", "EFFECTIVE_STOP", "TIED_LOOK", "Scores", "Weights"]

AGAINST_STOP = 0.05
"""A score against the preference is a mistake in one of them; at one in twenty, of the reading."""

TIED_LOOK = 0.05
"""Equal scores are no preference: whoever made the pair drew lots."""

EFFECTIVE_LOOK = 0.50
"""Weights so unequal that the data count like half as many pairs of equal weight."""

EFFECTIVE_STOP = 0.05
"""The same for one pair in twenty: the loss hardly sees the others."""


class Scores:
    """Pairs whose scores say the opposite of the pair, or nothing."""

    def __init__(self) -> None:
        self._against, self._tied, self._scored = Tally(), 0, 0

    def add(self, pair: PairView) -> None:
        """Look at a pair."""
        if pair.scores is None or pair.rejected is None:
            return
        self._scored += 1
        chosen, rejected = pair.scores
        self._tied += chosen == rejected
        if chosen < rejected:
            text = f"chosen {chosen:g}, rejected {rejected:g}: {pair.chosen}"
            self._against.add(pair.where, text)

    def finding(self) -> Finding | None:
        """What was found; None if no pair has scores."""
        if not self._scored:
            return None
        against, share = self._against, self._against.count / self._scored
        tied = self._tied / self._scored
        verdict = grade(share, 0.0, AGAINST_STOP)
        if verdict == "ok" and tied >= TIED_LOOK:
            verdict = "look"
        says = (
            f"Of {amount(self._scored, 'pair')} with scores, {against.count:,} score the rejected "
            f"answer higher ({percent(share)}) and {self._tied:,} both the same ({percent(tied)})."
        )
        return Finding(
            "scores",
            "Scores against the preference",
            verdict,
            against.count,
            self._scored,
            says,
            ""
            if verdict == "ok"
            else "Leave these pairs out: orpo data fix --min_score_margin 0 drops those that score "
            "the rejected answer higher, a number above 0 equal scores, too. If nearly all are "
            "affected, lower scores mean better answers here and the columns are swapped.",
            against.shown,
            {"tied": float(self._tied), "tied_share": tied},
        )


class Weights:
    """How many pairs of equal weight the weighted pairs are worth: (sum w)^2 / sum w^2."""

    def __init__(self) -> None:
        self._weights = array("d")

    def add(self, pair: PairView) -> None:
        """Look at a pair."""
        self._weights.append(pair.weight)

    def finding(self) -> Finding | None:
        """What was found; None if all weights are 1."""
        weights = np.asarray(self._weights)
        if not len(weights) or bool((weights == 1).all()):
            return None
        zero, total = int((weights == 0).sum()), float(weights.sum())
        effective = total**2 / float((weights**2).sum()) if total else 0.0
        share = effective / len(weights)
        verdict = "look" if share < EFFECTIVE_LOOK else "ok"
        verdict = "stop" if share < EFFECTIVE_STOP else verdict
        return Finding(
            "weights",
            "Weights",
            verdict,
            zero,
            len(weights),
            f"Weights run from {weights.min():g} to {weights.max():g}; {zero:,} are 0. The pairs "
            f"count like {effective:,.0f} of equal weight.",
            "" if verdict == "ok" else "Check the column 'weight': most pairs hardly count.",
            (),
            {"effective_pairs": effective, "zero": float(zero)},
        )
