"""Rows without a rejected answer, and the misspelt column that it may be in."""

from __future__ import annotations

from collections import Counter
from difflib import get_close_matches

from orpo.audit.findings import Finding, Tally, amount, percent
from orpo.audit.views import PairView

__all__ = ["NoRejected"]

_COLUMNS = ("rejected", "rejected_response", "rejected_messages")
_MOST_NAMES = 50


class NoRejected:
    """Rows that are learnt from by their NLL alone, because they have nothing to prefer it to."""

    def __init__(self) -> None:
        self._found, self._rows, self._lacking = Tally(), 0, 0
        self._known: set[str] = set()
        self._others: Counter[str] = Counter()

    def add(self, pair: PairView) -> None:
        """Look at a pair."""
        self._rows += 1
        columns = pair.row.values.keys()
        if pair.rejected is not None:
            self._known.update(columns)
            return
        lacking = columns.isdisjoint(_COLUMNS)
        self._lacking += lacking
        if lacking and len(self._others) <= _MOST_NAMES:
            self._others.update(columns)
        self._found.add(pair.where, f"columns: {', '.join(columns)}" if lacking else pair.chosen)

    def finding(self) -> Finding | None:
        """What was found; None if every row has a rejected answer."""
        found, rows = self._found, self._rows
        if not found.count:
            return None
        verdict = "look" if self._lacking else "ok"
        verdict = "stop" if found.count == rows else verdict
        have = "has" if found.count == 1 else "have"
        says = f"{amount(found.count, 'row')} ({percent(found.count / rows)}) {have} no rejected "
        says += "answer: the chosen one is learnt, nothing is preferred."
        if found.count < rows and self._lacking:
            says += f" {amount(self._lacking, 'row')} without the column 'rejected' that others"
            says += f" have{self._instead()}."
        elif found.count == rows:
            says += f" No row has one{self._instead()}: orpo train refuses such data."
        do = "Name the column 'rejected' in every row, or give null."
        if found.count == rows:
            do = "Give rows a rejected answer, in the column 'rejected'."
        return Finding(
            "no_rejected",
            "Rows without rejected answer",
            verdict,
            found.count,
            rows,
            says,
            "" if verdict == "ok" else do,
            found.shown,
            {"without_column": float(self._lacking)},
        )

    def _instead(self) -> str:
        """The columns that may be meant: unknown to the other rows, or spelt nearly alike."""
        unknown = [name for name in self._others if name not in self._known]
        if not self._known:
            unknown = get_close_matches("rejected", unknown, cutoff=0.7)
        return f" (but {', '.join(map(repr, unknown[:5]))})" if unknown else ""
