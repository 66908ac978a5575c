"""Counting checked answers."""

from __future__ import annotations

from orpo.evaluate import Grade, grade_summary


def test_groups_and_verdicts_add_up_to_the_whole() -> None:
    grades = [
        Grade(True, "correct", {"language": "en"}),
        Grade(False, "refused", {"language": "zh"}),
        Grade(False, "refused", {"language": "en"}),
        Grade(False, "wrong"),
    ]
    assert grade_summary(grades) == {
        "correct_answers": 0.25,
        "prompts": 4,
        "by_verdict": {
            "refused": {"answers": 2},
            "correct": {"answers": 1},
            "wrong": {"answers": 1},
        },
        "by_language": {
            "en": {"correct_answers": 0.5, "n": 2},
            "zh": {"correct_answers": 0.0, "n": 1},
        },
    }
    assert grade_summary([]) == {"correct_answers": 0.0, "prompts": 0, "by_verdict": {}}
