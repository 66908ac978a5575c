"""The rules, and what they say together."""

from __future__ import annotations

from collections.abc import Callable

from orpo.report.diagnosis.generalising import length_creep, overfitting
from orpo.report.diagnosis.preference import (
    chosen_falls,
    orpo_alpha_too_high,
    orpo_alpha_too_low,
)
from orpo.report.diagnosis.rate import learning_rate_too_high, learning_rate_too_low
from orpo.report.diagnosis.types import Finding, Observed
from orpo.report.values import as_count, joined, sentence

__all__ = ["RULES", "TITLES", "diagnose", "summary"]

RULES: tuple[Callable[[Observed], Finding], ...] = (
    learning_rate_too_low,
    learning_rate_too_high,
    chosen_falls,
    orpo_alpha_too_high,
    orpo_alpha_too_low,
    overfitting,
    length_creep,
)

TITLES = {
    "learning_rate_too_low": "Learning rate too low",
    "learning_rate_too_high": "Learning rate too high",
    "chosen_falls": "Margin grows while the chosen answers fall",
    "orpo_alpha_too_high": "Preference term (λ, orpo_alpha) too strong",
    "orpo_alpha_too_low": "Preference term (λ, orpo_alpha) too weak",
    "overfitting": "Overfitting",
    "length_creep": "Length creep",
}


def diagnose(seen: Observed) -> list[Finding]:
    """What every rule says, those that apply first."""
    order = {"look": 0, "unknown": 2}
    return sorted((rule(seen) for rule in RULES), key=lambda found: order.get(found.verdict, 1))


def summary(found: list[Finding]) -> str:
    """What the rules say together, in a sentence."""
    by_verdict = {
        verdict: [one for one in found if one.verdict == verdict]
        for verdict in ("look", "ok", "unknown")
    }
    if by_verdict["look"]:
        names = joined(_inner(TITLES[one.name]) for one in by_verdict["look"])
        return sentence(f"the curves point to this: {names}")
    if not by_verdict["ok"]:
        return "Too little was logged to say anything about the settings."
    text = (
        f"Healthy, as far as can be seen: none of {as_count(len(by_verdict['ok']), 'rule')} applies"
    )
    if by_verdict["unknown"]:
        text += f"; {len(by_verdict['unknown'])} could not be judged"
    return text + "."


def _inner(title: str) -> str:
    return title[:1].lower() + title[1:]
