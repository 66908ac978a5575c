"""What a rule looks at, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass, field

from orpo.report.samples import answer_lengths
from orpo.report.series import Curves
from orpo.report.values import mapping, number, records
from orpo.report.words import progress
from orpo.runs import Run

__all__ = ["Finding", "Observed", "clear", "look", "observed", "unknown"]


@dataclass(frozen=True)
class Finding:
    """What a rule found.

    Attributes:
        name: Of the rule: "learning_rate_too_low".
        verdict: "look" where the rule applies, "ok" where it does not, "unknown" where the run
            logged too little to say.
        evidence: The numbers that say so: steps, values, and how they compare with the curve's
            own noise; for "unknown", what is missing.
        advice: What to try; empty unless the verdict is "look".
    """

    name: str
    verdict: str
    evidence: str
    advice: str = ""


@dataclass(frozen=True)
class Observed:
    """Everything that the rules look at.

    Attributes:
        curves: What was logged.
        objective: "orpo", "sft" or "dpo".
        alpha: `orpo_alpha`; None if unknown.
        learning_rate: The highest; None if unknown.
        halfway: At least half of the planned steps are done.
        lengths: (before, after, preferred) characters of the sample answers; preferred is 0 where
            the data name none.
        events: (step, kind) of what happened beside the steps.
    """

    curves: Curves
    objective: str = "orpo"
    alpha: float | None = None
    learning_rate: float | None = None
    halfway: bool = True
    lengths: list[tuple[int, int, int]] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)


def observed(run: Run, curves: Curves) -> Observed:
    """What a run folder holds for the rules."""
    recipe, state = mapping(run.recipe), progress(run)
    halfway = state.finished or not state.planned or 2 * (state.step or 0) >= state.planned
    return Observed(
        curves,
        str(recipe.get("objective") or "orpo"),
        number(recipe.get("orpo_alpha")),
        number(recipe.get("learning_rate")),
        halfway,
        answer_lengths(run),
        [
            (number(event.get("step")) or 0.0, str(event.get("kind", "")))
            for event in records(run.events)
        ],
    )


def look(name: str, evidence: str, advice: str) -> Finding:
    """The rule applies."""
    return Finding(name, "look", evidence, advice)


def clear(name: str, evidence: str) -> Finding:
    """The rule does not apply."""
    return Finding(name, "ok", evidence)


def unknown(name: str, missing: str) -> Finding:
    """The run logged too little to say."""
    return Finding(name, "unknown", missing)
