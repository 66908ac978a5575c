"""Checked answers: how many are right, in all and by group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Grade:
    """A checker's word on one answer.

    Attributes:
        correct: Whether the answer is right, in the asked form.
        reason: In words: "correct", "wrong result", "refused", ...
        groups: What the prompt is, such as {"language": "en", "task": "add"}.
    """

    correct: bool
    reason: str
    groups: Mapping[str, str] = field(default_factory=dict)


def grade_summary(grades: Sequence[Grade]) -> dict[str, Any]:
    """The share of correct answers over all prompts and by each group.

    Returns:
        correct_answers, prompts, by_verdict {reason: {"answers"}}, and for each kind of group
        by_<kind> {name: {"correct_answers", "n"}}.
    """
    reasons: dict[str, int] = defaultdict(int)
    members: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for grade in grades:
        reasons[grade.reason] += 1
        for kind, name in grade.groups.items():
            members[kind][name].append(grade.correct)
    summary: dict[str, Any] = {
        "correct_answers": _share([grade.correct for grade in grades]),
        "prompts": len(grades),
        "by_verdict": {
            reason: {"answers": count}
            for reason, count in sorted(reasons.items(), key=lambda item: -item[1])
        },
    }
    for kind, groups in members.items():
        summary[f"by_{kind}"] = {
            name: {"correct_answers": _share(correct), "n": len(correct)}
            for name, correct in sorted(groups.items())
        }
    return summary


def _share(correct: Sequence[bool]) -> float:
    return sum(correct) / len(correct) if correct else 0.0
