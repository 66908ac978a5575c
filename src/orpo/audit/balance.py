"""How the rows are spread over turns, topics and languages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from orpo.audit.findings import Finding, Tally, amount, grade, percent
from orpo.audit.scripts import script_of
from orpo.audit.views import PairView

__all__ = [
    "CATEGORY_COLUMNS",
    "CATEGORY_LOOK",
    "MISMATCH_LOOK",
    "MISMATCH_STOP",
    "Categories",
    "Languages",
    "Turns",
]

CATEGORY_COLUMNS = ("category", "topic", "subset", "source", "task", "domain", "language")
"""Columns that say where a row belongs, if they hold a limited number of names."""

CATEGORY_LOOK = 0.80
"""One category that makes up four fifths decides what is learnt; the others hardly count."""

MISMATCH_LOOK = 0.01
"""A chosen and a rejected answer in different scripts: one is not in the language of the prompt,
and the preference is about that. Some translations and quotations are meant."""

MISMATCH_STOP = 0.20
"""A fifth of the pairs: the answers come from different data."""

TURN_LOOK = 0.01
"""Prompts that do not end with the user's turn ask nothing; templates render them oddly."""

TURN_STOP = 0.50
"""Half of the prompts: roles were read wrongly."""

_MOST_NAMES = 200
_ASKING = ("user", "tool", "function", "ipython", "observation", "")


class Turns:
    """How many turns the user has had when the answer comes, and whose turn it is."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._odd = Tally()

    def add(self, pair: PairView) -> None:
        """Look at a pair."""
        self._counts[pair.turns] += 1
        if pair.last_role not in _ASKING:
            self._odd.add(pair.where, f"ends with {pair.last_role!r}: {pair.prompt[-200:]}")

    def counts(self) -> dict[str, int]:
        """Turns of the user -> rows, rising."""
        return {str(turns): rows for turns, rows in sorted(self._counts.items())}

    def finding(self) -> Finding:
        """What was found."""
        rows, odd = self._counts.total(), self._odd
        single = self._counts[1] / max(1, rows)
        says = f"{percent(single)} of the prompts have one turn of the user; the longest has "
        says += f"{amount(max(self._counts, default=0), 'turn')}."
        if odd.count:
            says += f" {amount(odd.count, 'prompt')} do not end with the user's turn."
        return Finding(
            "turns",
            "Turns of the conversation",
            grade(odd.count / max(1, rows), TURN_LOOK, TURN_STOP),
            odd.count,
            rows,
            says,
            "End every prompt with what the user says." if odd.count else "",
            odd.shown,
            {"single_turn": single},
        )


class Categories:
    """Rows by what a column such as `category` or `source` says."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}
        self._rows = 0

    def add(self, pair: PairView) -> None:
        """Look at a pair."""
        self._rows += 1
        for column in CATEGORY_COLUMNS:
            name = pair.row.values.get(column)
            if isinstance(name, str) and name:
                counts = self._counts.setdefault(column, Counter())
                if len(counts) <= _MOST_NAMES:  # beyond, the column names rows, not categories
                    counts[name[:80]] += 1

    def finding(self) -> Finding | None:
        """The first column that holds categories; None if there is none."""
        for column in CATEGORY_COLUMNS:
            counts = self._counts.get(column, Counter[str]())
            if 2 <= len(counts) <= _MOST_NAMES:
                return self._finding(column, counts)
        return None

    def _finding(self, column: str, counts: Counter[str]) -> Finding:
        (largest, rows), share = counts.most_common(1)[0], 0.0
        share = rows / max(1, self._rows)
        verdict = "look" if share >= CATEGORY_LOOK else "ok"
        return Finding(
            "categories",
            f"Balance over the column {column!r}",
            verdict,
            rows,
            self._rows,
            f"{len(counts)} values; {largest!r} is the most frequent with {percent(share)} of "
            "the rows.",
            "" if verdict == "ok" else "Collect more of the others, or draw fewer of this one.",
            (),
            {name: float(n) for name, n in counts.most_common(20)},
        )


class Languages:
    """The script that prompts are written in, and answers whose scripts differ."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._mixed, self._pairs = Tally(), 0

    def add(self, pair: PairView) -> None:
        """Look at a pair."""
        chosen = script_of(pair.chosen)
        self._counts[script_of(pair.prompt).name] += 1
        if pair.rejected is None:
            return
        self._pairs += 1
        rejected = script_of(pair.rejected)
        if chosen.clear and rejected.clear and chosen.name != rejected.name:
            text = f"{chosen.name}: {pair.chosen[:100]} | {rejected.name}: {pair.rejected[:100]}"
            self._mixed.add(pair.where, text)

    def counts(self) -> Mapping[str, int]:
        """Script of the prompt -> rows, the most frequent first."""
        return dict(self._counts.most_common())

    def finding(self) -> Finding:
        """What was found."""
        mixed, share = self._mixed, self._mixed.count / max(1, self._pairs)
        rows = max(1, self._counts.total())
        told = ", ".join(f"{name} {percent(n / rows)}" for name, n in self._counts.most_common(3))
        says = f"Prompts by script: {told}."
        if mixed.count:
            says += (
                f" In {amount(mixed.count, 'pair')} ({percent(share)}) chosen and rejected answer "
                "are in different scripts."
            )
        return Finding(
            "languages",
            "Languages",
            grade(share, MISMATCH_LOOK, MISMATCH_STOP),
            mixed.count,
            self._pairs,
            says,
            "Check that both answers are in the language of the prompt." if mixed.count else "",
            mixed.shown,
            {f"prompts: {name}": float(n) for name, n in self._counts.most_common(8)},
        )
