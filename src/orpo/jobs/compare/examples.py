"""A few prompts with every method's answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orpo.experiments.compare import ArmResult, Group, Outcome

__all__ = ["pick_examples"]

_SHOWN = 6


def pick_examples(base: ArmResult, groups: Sequence[Group]) -> dict[str, Any]:
    """Answers of the first seed, side by side.

    Returns:
        {"rule": how the prompts were picked, "examples": [{prompt, answers: [{name, answer,
        correct, reason}]}]}
    """
    budget = groups[0].budget if groups else ""
    of = {g.method: g.runs[0] for g in groups if g.budget == budget and g.runs}
    answers = {"base": _by_row(base), **{name: _by_row(run) for name, run in of.items()}}
    rows = [row for row in answers["base"] if all(row in found for found in answers.values())]
    differing = [row for row in rows if len({f[row].correct for f in answers.values()}) > 1]
    texts = [row for row in rows if len({f[row].answer for f in answers.values()}) > 1]
    picked = differing or texts or rows
    rule = (
        "Prompts on which the checker's word differs between the models"
        if differing
        else "Prompts that the models answer differently"
        if texts
        else "Prompts"
    )
    spaced = picked[:: max(1, len(picked) // _SHOWN)][:_SHOWN]
    return {
        "rule": f"{rule}, evenly spaced out of {len(picked)}; the first seed's answers",
        "examples": [
            {
                "prompt": answers["base"][row].prompt,
                "answers": [_shown(name, found[row]) for name, found in answers.items()],
            }
            for row in spaced
        ],
    }


def _by_row(run: ArmResult) -> dict[int, Outcome]:
    return {one.row: one for one in run.outcomes if one.answer is not None}


def _shown(name: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "name": name,
        "answer": outcome.answer,
        "correct": outcome.correct,
        "reason": outcome.reason,
    }
