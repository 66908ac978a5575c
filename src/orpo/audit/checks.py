"""All checks of texts: the rules for single pairs, and what shows across rows only."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from difflib import get_close_matches

import numpy as np

from orpo.audit.faults import RULES
from orpo.audit.findings import Finding, Rule, Tally, amount, percent
from orpo.audit.leakage import NearLeakage, PromptLeakage
from orpo.audit.repeats import NEAR_ROWS, NearDuplicates, Repeats
from orpo.audit.shingles import minhash_available
from orpo.audit.texts import opening_of
from orpo.audit.views import PairView

CATEGORY_COLUMNS = ("category", "topic", "subset", "source", "task", "domain", "language")
"""Columns that say where a row belongs, if they hold a limited number of names."""

CATEGORY_LOOK = 0.80
"""One category that makes up four fifths decides what is learnt; the others hardly count."""

GIVEAWAY_LOOK, GIVEAWAY_STOP = 0.20, 0.50
"""One answer in five with the same first words, and half as many on the other side, is a habit that
the model can go by instead of the content; with every other one, they decide the preference."""

EFFECTIVE_LOOK, EFFECTIVE_STOP = 0.50, 0.05
"""Weights so unequal that the data count like half as many pairs of equal weight; or like one in
twenty, so that the loss hardly sees the others."""

_MOST_NAMES = 200
_ENOUGH_ROWS = 100  # in fewer the same first words come together by chance
_OPENINGS = 100_000  # that are counted at a time
_REJECTED = ("rejected", "rejected_response", "rejected_messages")


class NoRejected:
    """Rows that are learnt from by their NLL alone, and the misspelt column that may be meant."""

    def __init__(self) -> None:
        self._found, self._lacking = Tally(), 0
        self._known: set[str] = set()
        self._others: Counter[str] = Counter()

    def add(self, pair: PairView) -> None:
        """Look at a pair."""
        self._found.of += 1
        columns = pair.row.values.keys()
        if pair.rejected is not None:
            self._known.update(columns)
            return
        lacking = columns.isdisjoint(_REJECTED)
        self._lacking += lacking
        if lacking and len(self._others) <= 50:
            self._others.update(columns)
        self._found.add(pair.where, f"columns: {', '.join(columns)}" if lacking else pair.chosen)

    def finding(self) -> Finding | None:
        """What was found; None if every row has a rejected answer."""
        found, every = self._found, self._found.count == self._found.of
        if not found.count:
            return None
        have = "has" if found.count == 1 else "have"
        says = f"{amount(found.count, 'row')} ({percent(found.share)}) {have} no rejected answer: "
        says += "the chosen one is learnt, nothing is preferred."
        if every:
            says += f" No row has one{self._instead()}: orpo train refuses such data."
        elif self._lacking:
            says += f" {amount(self._lacking, 'row')} without the column 'rejected' that others"
            says += f" have{self._instead()}."
        do = "Name the column 'rejected' in every row, or give null."
        if every:
            do = "Give rows a rejected answer, in the column 'rejected'."
        rule = Rule("no_rejected", "Rows without rejected answer", 0, 1, do=do, quiet=True)
        verdict = "stop" if every else "look" if self._lacking else "ok"
        return rule.finding(found, says, {"without_column": float(self._lacking)}, verdict=verdict)

    def _instead(self) -> str:
        """The columns that may be meant: unknown to the other rows, or spelt nearly alike."""
        unknown = [name for name in self._others if name not in self._known]
        if not self._known:
            unknown = get_close_matches("rejected", unknown, cutoff=0.7)
        return f" (but {', '.join(map(repr, unknown[:5]))})" if unknown else ""


class Openings:
    """The first words of the chosen and of the rejected answers."""

    _RULE = Rule(
        "openings",
        "Answers that begin alike",
        GIVEAWAY_LOOK,
        GIVEAWAY_STOP,
        none="No first words tell chosen from rejected answers.",
        do="Let answers of both sides begin in the same ways, or cut what they begin with.",
    )

    def __init__(self) -> None:
        self._counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self._pairs = 0
        self._first: dict[str, Tally] = {}

    def add(self, pair: PairView) -> None:
        """Look at a pair; a row without rejected answer has nothing to give away."""
        if pair.rejected is None:
            return
        self._pairs += 1
        for counts, answer in zip(self._counts, (pair.chosen, pair.rejected), strict=True):
            opening = opening_of(answer)
            counts[opening] += 1
            if len(counts) > _OPENINGS:  # what is frequent has come twice by now
                for rare in [one for one, n in counts.items() if n == 1]:
                    del counts[rare]
            if counts[opening] == 1 and len(self._first) < _OPENINGS:
                self._first.setdefault(opening, Tally()).add(pair.where, answer)

    def finding(self) -> Finding:
        """The opening that gives most away."""
        side, opening = self._giveaway()
        counts = [self._counts[side][opening], self._counts[1 - side][opening]]
        share, other = (count / max(1, self._pairs) for count in counts)
        if not opening or share < GIVEAWAY_LOOK:
            return self._RULE.finding(Tally(of=max(1, self._pairs)), "")
        name, rest = ("chosen", "rejected") if side == 0 else ("rejected", "chosen")
        examples = self._first[opening].examples if opening in self._first else []
        return self._RULE.finding(
            Tally(self._pairs, counts[0], examples=examples),
            f"{percent(share)} of the {name} answers begin with the words “{opening}”, and "
            f"{percent(other)} of the {rest} ones: the model can go by them.",
            {name: share, rest: other},
        )

    def _giveaway(self) -> tuple[int, str]:
        """The side and its most frequent opening that is half as frequent on the other side."""
        if self._pairs < _ENOUGH_ROWS:
            return 0, ""
        for side, opening, count in sorted(
            ((s, o, n) for s in (0, 1) for o, n in self._counts[s].most_common(20)),
            key=lambda found: -found[2],
        ):
            if opening and 2 * self._counts[1 - side][opening] <= count:
                return side, opening
        return 0, ""


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
        largest, rows = counts.most_common(1)[0]
        found = Tally(self._rows, rows)
        do = "Collect more of the others, or draw fewer of this one."
        title = f"Balance over the column {column!r}"
        rule = Rule("categories", title, CATEGORY_LOOK, 2, do=do, quiet=True)
        return rule.finding(
            found,
            f"{len(counts)} values; {largest!r} is the most frequent with {percent(found.share)} "
            "of the rows.",
            {name: float(n) for name, n in counts.most_common(20)},
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
        verdict = "stop" if share < EFFECTIVE_STOP else "look" if share < EFFECTIVE_LOOK else "ok"
        do = "Check the column 'weight': most pairs hardly count."
        return Rule("weights", "Weights", 0, 1, do=do, quiet=True).finding(
            Tally(len(weights), zero),
            f"Weights run from {weights.min():g} to {weights.max():g}; {zero:,} are 0. The pairs "
            f"count like {effective:,.0f} of equal weight.",
            {"effective_pairs": effective, "zero": float(zero)},
            verdict=verdict,
        )


class Checks:
    """All checks that need texts only, one after another on every pair.

    Args:
        near: Look for near duplicates too, which takes most of the time.
        leakage: Whether evaluation pairs will be given (`hold`), all before the first `add`.
    """

    def __init__(self, *, near: bool, leakage: bool) -> None:
        self.notes: list[str] = []
        if near and not minhash_available():
            self.notes.append(
                "not checked: near duplicates and nearly leaked prompts; pip install 'orpo[data]'"
            )
            near = False
        self.found = {rule.check: Tally() for rule in RULES}
        self._repeats, self._near = Repeats(), NearDuplicates() if near else None
        self._leakage = PromptLeakage() if leakage else None
        self._near_leakage = NearLeakage() if leakage and near else None
        self._no_rejected, self._weights = NoRejected(), Weights()
        self._openings, self._categories = Openings(), Categories()

    @property
    def languages(self) -> Mapping[str, int]:
        """Script of the prompt -> rows, the most frequent first."""
        return dict(self.found["languages"].kinds.most_common())

    @property
    def turns(self) -> Mapping[str, int]:
        """Turns of the user -> rows, rising."""
        return {str(turns): n for turns, n in sorted(self.found["turns"].kinds.items())}

    def hold(self, pair: PairView) -> None:
        """Take an evaluation pair."""
        for check in (self._leakage, self._near_leakage):
            if check is not None:
                check.hold(pair)

    def add(self, pair: PairView, *, content: bool = True) -> None:
        """Look at a training pair; without `content` only at what is there and what repeats."""
        if not self._repeats.add(pair) and self._near is not None:
            self._near.add(pair)
        for check in (self._no_rejected, self._weights, self._leakage, self._near_leakage):
            if check is not None:
                check.add(pair)
        for rule in RULES:
            if content or not rule.content:
                rule.add(pair, self.found[rule.check])
        if content:
            self._openings.add(pair)
            self._categories.add(pair)

    def add_fault(self, where: str, why: str, kind: str) -> None:
        """Count a row that the tokenizer's template refuses, changes or begins twice."""
        self.found["template"].kinds[kind] += 1
        self.found["template"].add(where, why)

    def findings(self) -> list[Finding]:
        """What was found, in the order in which checks are listed."""
        for near, what in ((self._near, "duplicates"), (self._near_leakage, "leaked prompts")):
            if near is not None and near.left_out:
                self.notes.append(
                    f"near {what} were looked for among the first {NEAR_ROWS:,} rows; "
                    f"{near.left_out:,} further ones were left out"
                )
        of = {rule.check: rule.outcome(self.found[rule.check]) for rule in RULES}
        made = [
            self._no_rejected.finding(),
            of["empty_texts"],
            of["identical_answers"],
            *self._repeats.findings(),
            self._near.finding() if self._near else None,
            self._leakage.finding() if self._leakage else None,
            self._near_leakage.finding() if self._near_leakage else None,
            of["template"],
            of["refusals"],
            self._openings.finding(),
            of["languages"],
            of["turns"],
            self._categories.finding(),
            of["scores"],
            self._weights.finding(),
        ]
        return [finding for finding in made if finding is not None]
