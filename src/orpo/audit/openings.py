"""First words that tell which answer was chosen."""

from __future__ import annotations

from collections import Counter

from orpo.audit.findings import Finding, Tally, grade, percent
from orpo.audit.views import PairView

__all__ = ["GIVEAWAY_LOOK", "GIVEAWAY_STOP", "Openings"]

GIVEAWAY_LOOK = 0.20
"""One answer in five with the same first words, and half as many on the other side, is a habit that
the model can go by instead of the content."""

GIVEAWAY_STOP = 0.50
"""With every other one, the first words decide the preference."""

_WORDS = 3
_CHARACTERS = 4
_LENGTH = 120  # characters that are looked at for them
_ENOUGH = 100  # rows: in fewer the same words come together by chance
_KEPT = 100_000  # openings that are counted at a time


class Openings:
    """The first words of the chosen and of the rejected answers."""

    def __init__(self) -> None:
        self._counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self._rows = [0, 0]
        self._first: dict[str, Tally] = {}

    def add(self, pair: PairView) -> None:
        """Look at a pair; a row without rejected answer has nothing to give away."""
        if pair.rejected is None:
            return
        for side, answer in enumerate((pair.chosen, pair.rejected)):
            opening = _opening(answer)
            self._rows[side] += 1
            self._counts[side][opening] += 1
            if len(self._counts[side]) > _KEPT:  # what is frequent has come twice by now
                _forget_rare(self._counts[side])
            if self._counts[side][opening] == 1 and len(self._first) < _KEPT:
                self._first.setdefault(opening, Tally()).add(pair.where, answer)

    def finding(self) -> Finding:
        """The opening that gives most away."""
        side, opening = self._giveaway()
        count, other = self._counts[side][opening], self._counts[1 - side][opening]
        rows = max(1, self._rows[side])
        share = count / rows
        verdict = grade(share, GIVEAWAY_LOOK, GIVEAWAY_STOP) if opening else "ok"
        name, rest = ("chosen", "rejected") if side == 0 else ("rejected", "chosen")
        if verdict == "ok":
            says = "No first words tell chosen from rejected answers."
            return Finding("openings", "Answers that begin alike", "ok", 0, rows, says)
        return Finding(
            "openings",
            "Answers that begin alike",
            verdict,
            count,
            rows,
            f"{percent(share)} of the {name} answers begin with the words “{opening}”, and "
            f"{percent(other / rows)} of the {rest} ones: the model can go by them.",
            "Let answers of both sides begin in the same ways, or cut what they begin with.",
            self._first[opening].shown if opening in self._first else (),
            {name: share, rest: other / rows},
        )

    def _giveaway(self) -> tuple[int, str]:
        """The side and its most frequent opening that is half as frequent on the other side."""
        if self._rows[0] < _ENOUGH:
            return 0, ""
        for side, opening, count in sorted(
            ((s, o, n) for s in (0, 1) for o, n in self._counts[s].most_common(20)),
            key=lambda found: -found[2],
        ):
            if opening and 2 * self._counts[1 - side][opening] <= count:
                return side, opening
        return 0, ""


def _opening(answer: str) -> str:
    """The first words of an answer, or the first characters where words have no spaces."""
    parts = answer[:_LENGTH].casefold().split()[:_WORDS]
    if parts and not parts[0].isascii() and len(parts[0]) > 2 * _CHARACTERS:
        return parts[0][:_CHARACTERS]
    return " ".join(parts)


def _forget_rare(counts: Counter[str]) -> None:
    for opening in [o for o, n in counts.items() if n == 1]:
        del counts[opening]
