"""Checked answers: how many are right, in all and by group."""

from __future__ import annotations

from collections import Counter, defaultdict
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
    members: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for grade in grades:
        for kind, name in grade.groups.items():
            members[kind][name].append(grade.correct)
    reasons = Counter(grade.reason for grade in grades).most_common()
    summary: dict[str, Any] = {
        "correct_answers": sum(grade.correct for grade in grades) / max(len(grades), 1),
        "prompts": len(grades),
        "by_verdict": {reason: {"answers": count} for reason, count in reasons},
    }
    for kind, groups in members.items():
        summary[f"by_{kind}"] = {
            name: {"correct_answers": sum(correct) / len(correct), "n": len(correct)}
            for name, correct in sorted(groups.items())
        }
    return summary
