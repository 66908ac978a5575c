"""What the curves, the answers and the settings of a run say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orpo.report.page import Words
from orpo.report.rules import RULES, Judged
from orpo.report.samples import answer_lengths
from orpo.report.series import Curves, progress
from orpo.report.shifts import Observed
from orpo.report.values import as_count, joined, lowered, mapping, number, records, sentence
from orpo.runs.files import Run


@dataclass(frozen=True)
class Finding:
    """What a rule found: "look" where it applies, "ok" where not, "unknown" if little was logged.

    The evidence are the numbers that say so; what to try is empty unless the verdict is "look".
    """

    name: str
    verdict: str
    evidence: str
    advice: str = ""

    @property
    def title(self) -> str:
        """For readers."""
        return RULES[self.name][0]


def observed(run: Run, curves: Curves) -> Observed:
    """What a run folder holds for the rules."""
    recipe, state = mapping(run.recipe), progress(run)
    return Observed(
        curves,
        str(recipe.get("objective") or "orpo"),
        number(recipe.get("orpo_alpha")),
        number(recipe.get("learning_rate")),
        state.finished or not state.planned or 2 * (state.step or 0) >= state.planned,
        answer_lengths(run),
        [(number(one.get("step")) or 0.0, str(one.get("kind", ""))) for one in records(run.events)],
    )


def diagnose(seen: Observed) -> list[Finding]:
    """What every rule says, those that apply first."""
    found = [_finding(name, rule(seen), seen) for name, (_, rule) in RULES.items()]
    order = {"look": 0, "unknown": 2}
    return sorted(found, key=lambda one: order.get(one.verdict, 1))


def _finding(name: str, judged: Judged, seen: Observed) -> Finding:
    verdict, evidence, *more = judged
    advice = Words("diagnosis", seen=seen, **(more[0] if more else {}))
    return Finding(name, verdict, evidence, advice[name] if verdict == "look" else "")


def summary(found: Sequence[Finding]) -> str:
    """What the rules say together, in a sentence."""
    look, clear, unknown = (
        [one for one in found if one.verdict == verdict] for verdict in ("look", "ok", "unknown")
    )
    if look:
        return sentence(f"the curves point to this: {joined(lowered(one.title) for one in look)}")
    if not clear:
        return "Too little was logged to say anything about the settings."
    text = f"Healthy, as far as can be seen: none of {as_count(len(clear), 'rule')} applies"
    return f"{text}; {len(unknown)} could not be judged." if unknown else f"{text}."
