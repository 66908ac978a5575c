"""Counting checked answers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orpo.evaluate import Grade, grade_summary

GRADES = st.lists(
    st.builds(
        Grade,
        st.booleans(),
        st.sampled_from(["correct", "refused"]),
        st.fixed_dictionaries({"language": st.sampled_from(["en", "zh"])}),
    ),
    min_size=1,
)


@given(GRADES)
def test_groups_and_verdicts_add_up_to_the_whole(grades: list[Grade]) -> None:
    summary = grade_summary(grades)
    assert summary["prompts"] == len(grades)
    assert sum(verdict["answers"] for verdict in summary["by_verdict"].values()) == len(grades)
    groups = summary["by_language"].values()
    assert sum(group["n"] for group in groups) == len(grades)
    correct = sum(group["n"] * group["correct_answers"] for group in groups)
    assert abs(correct - len(grades) * summary["correct_answers"]) < 1e-9
    assert abs(correct - sum(grade.correct for grade in grades)) < 1e-9


def test_no_answers_are_no_evidence() -> None:
    assert grade_summary([]) == {"correct_answers": 0.0, "prompts": 0, "by_verdict": {}}
