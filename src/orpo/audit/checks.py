"""All checks of texts, one after another on every pair."""

from __future__ import annotations

from orpo.audit.answers import EmptyTexts, IdenticalAnswers
from orpo.audit.balance import Categories, Languages, Turns
from orpo.audit.duplicates import Repeats
from orpo.audit.findings import Finding
from orpo.audit.leakage import NearLeakage, PromptLeakage
from orpo.audit.markup import TemplateProblems
from orpo.audit.near import NEAR_ROWS, NearDuplicates
from orpo.audit.openings import Openings
from orpo.audit.refusals import Refusals
from orpo.audit.rejected import NoRejected
from orpo.audit.scores import Scores, Weights
from orpo.audit.shingles import minhash_available
from orpo.audit.views import PairView

__all__ = ["Checks"]

_NOT_CHECKED = "not checked: near duplicates and nearly leaked prompts; pip install 'orpo[data]'"


class Checks:
    """The checks that need texts only.

    Args:
        near: Look for near duplicates too, which takes most of the time.
        leakage: Whether evaluation pairs will be given (`hold`), all before the first `add`.
    """

    def __init__(self, *, near: bool, leakage: bool) -> None:
        self.notes: list[str] = []
        if near and not minhash_available():
            self.notes.append(_NOT_CHECKED)
            near = False
        self._empty, self._identical, self._repeats = EmptyTexts(), IdenticalAnswers(), Repeats()
        self._no_rejected = NoRejected()
        self._near = NearDuplicates() if near else None
        self._leakage = PromptLeakage() if leakage else None
        self._near_leakage = NearLeakage() if leakage and near else None
        self.template = TemplateProblems()
        self._refusals, self._openings = Refusals(), Openings()
        self._scores, self._weights = Scores(), Weights()
        self.languages, self.turns, self._categories = Languages(), Turns(), Categories()

    def hold(self, pair: PairView) -> None:
        """Take an evaluation pair."""
        for check in (self._leakage, self._near_leakage):
            if check is not None:
                check.hold(pair)

    def add(self, pair: PairView, *, content: bool = True) -> None:
        """Look at a training pair; without `content` only at what is there and what repeats."""
        if not self._repeats.add(pair) and self._near is not None:
            self._near.add(pair)
        for check in (
            self._no_rejected,
            self._empty,
            self._identical,
            self._scores,
            self._weights,
            self._leakage,
            self._near_leakage,
        ):
            if check is not None:
                check.add(pair)
        if content:
            self._add_content(pair)

    def _add_content(self, pair: PairView) -> None:
        for check in (
            self.template,
            self._refusals,
            self._openings,
            self.languages,
            self.turns,
            self._categories,
        ):
            check.add(pair)

    def findings(self) -> list[Finding]:
        """What was found, in the order in which checks are listed."""
        self._note_left_out()
        made = [
            self._no_rejected.finding(),
            self._empty.finding(),
            self._identical.finding(),
            self._repeats.duplicates(),
            self._repeats.contradictions(),
            self._near.finding() if self._near else None,
            self._leakage.finding() if self._leakage else None,
            self._near_leakage.finding() if self._near_leakage else None,
            self.template.finding(),
            self._refusals.finding(),
            self._openings.finding(),
            self.languages.finding(),
            self.turns.finding(),
            self._categories.finding(),
            self._scores.finding(),
            self._weights.finding(),
        ]
        return [finding for finding in made if finding is not None]

    def _note_left_out(self) -> None:
        for check, what in ((self._near, "duplicates"), (self._near_leakage, "leaked prompts")):
            if check is not None and check.left_out:
                self.notes.append(
                    f"near {what} were looked for among the first {NEAR_ROWS:,} rows; "
                    f"{check.left_out:,} further ones were left out"
                )
