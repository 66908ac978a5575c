import copy
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orpo.report.measures import Comparison
from orpo.report.run import run_page
from orpo.report.values import as_change, as_count, as_number, as_pair, as_percent, joined
from orpo.runs.files import Run
from tests.report.runs import EVALUATION_OF, TOTALS, recipe_of, training_lines


def run_of(**parts: Any) -> Run:
    return Run(
        Path("everyday"), parts.pop("recipe", recipe_of()), parts.pop("metrics", []), **parts
    )


@dataclass(frozen=True)
class Verdict:
    """The run in a sentence, and what qualifies it."""

    sentence: str
    remarks: tuple[str, ...] = ()


def told(run: Run) -> Verdict:
    """The words of a page, without what the diagnosis adds."""
    page = run_page(run)
    remarks = [one for one in page.remarks if not one.startswith("The curves point to this")]
    return Verdict(
        page.verdict.replace("\u00a0", " "), tuple(one.replace("\u00a0", " ") for one in remarks)
    )


def evaluation(before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any]:
    sides = {"before": before, "after": after}
    return {name: side for name, side in sides.items() if side is not None}


def test_before_and_after() -> None:
    run = run_of(metrics=[*training_lines(), TOTALS], evaluation=EVALUATION_OF)
    assert told(run) == Verdict(
        "On 400 held-out pairs the model now prefers the chosen answer in 93.1 % of cases "
        "(before: 61.5 %), and its greedy answers are correct in 88.0 % (before: 34.0 %)."
    )


def test_other_numbers_of_prompts_and_pairs_are_both_said() -> None:
    sides = copy.deepcopy(EVALUATION_OF)
    for side in sides.values():
        side["prompts"] = 50
    run = run_of(metrics=[TOTALS], evaluation=sides)
    assert "and on 50 held-out prompts its greedy answers are correct in" in told(run).sentence


def test_correct_answers_alone() -> None:
    sides = evaluation(None, {"correct_answers": 0.5, "prompts": 1})
    assert told(run_of(metrics=[TOTALS], evaluation=sides)).sentence == (
        "On 1 held-out prompt the model’s greedy answers are now correct in 50.0 % of cases "
        "(before: not measured)."
    )


def test_worse_is_called_worse() -> None:
    sides = evaluation(
        {"preference_accuracy": 0.9, "pairs": 1000}, {"preference_accuracy": 0.6, "pairs": 1000}
    )
    found = told(run_of(metrics=[TOTALS], evaluation=sides))
    assert found.remarks == ("The preference accuracy got worse.",)


def test_what_chance_could_explain_is_said() -> None:
    sides = evaluation(
        {"preference_accuracy": 0.55, "pairs": 40}, {"preference_accuracy": 0.65, "pairs": 40}
    )
    assert told(run_of(metrics=[TOTALS], evaluation=sides)).remarks == (
        "Chance alone could explain the change in preference accuracy on 40 pairs.",
    )


@pytest.mark.parametrize(
    ("before", "after", "count", "outcome"),
    [
        (0.5, 0.6, 100, "unclear"),
        (0.5, 0.6, 400, "better"),
        (0.6, 0.5, 400, "worse"),
        (0.5, 0.6, None, "better"),
        (0.5, 0.5, 400, "same"),
        (None, 0.5, 400, "unknown"),
    ],
)
def test_outcomes(
    before: float | None, after: float | None, count: int | None, outcome: str
) -> None:
    assert Comparison("x", before, after, count, "pair").outcome == outcome


def test_chance_agrees_with_the_exact_distribution() -> None:
    """Shares drawn twice from the same coin differ "clearly" in about one case of twenty."""
    draw = random.Random(5)
    clear = 0
    for _ in range(2000):
        before, after = (sum(draw.random() < 0.7 for _ in range(200)) / 200 for _ in range(2))
        clear += Comparison("x", before, after, 200, "pair").outcome in ("better", "worse")
    assert 0.03 < clear / 2000 < 0.07


def test_without_evaluation_it_says_so() -> None:
    found = told(run_of(metrics=[*training_lines(), TOTALS]))
    assert found.sentence.startswith(
        "On its training pairs the model preferred the chosen answer in 94."
    )
    assert "the loss fell from 2.08 to 1.06." in found.sentence
    assert len(found.remarks) == 1
    assert found.remarks[0].startswith("No held-out evaluation was made.")


def test_evaluations_while_training_are_better_than_none() -> None:
    lines = [
        {"step": 10, "eval_rewards/accuracies": 0.5},
        {"step": 90, "eval_rewards/accuracies": 0.75},
        TOTALS,
    ]
    found = told(run_of(metrics=lines))
    assert found.sentence == (
        "At step 90 the model preferred the chosen answer in 75.0 % of 400 held-out pairs "
        "(at step 10: 50.0 %)."
    )
    assert found.remarks[0].startswith("No held-out evaluation was made before training")


def test_a_run_that_is_going_on() -> None:
    found = told(
        run_of(
            metrics=training_lines(200)[:30], evaluation=evaluation(EVALUATION_OF["before"], None)
        )
    )
    assert found.sentence == (
        "On 400 held-out pairs the model preferred the chosen answer in 61.5 % of cases and 34.0 % "
        "of its greedy answers were correct before training; there is no evaluation after training "
        "yet."
    )
    assert "The run has not come to its end: its last logged step is 30 of 200." in found.remarks


def test_a_resumed_run_that_is_going_on() -> None:
    lines = [*training_lines(20), TOTALS | {"step": 20}, {"step": 21, "loss": 1.0}]
    assert any(
        "last logged step is 21 of 200" in remark for remark in told(run_of(metrics=lines)).remarks
    )


def test_nothing_logged() -> None:
    found = told(run_of())
    assert found.sentence.startswith("No training step has been logged yet")
    assert "The run has not logged a training step yet." in found.remarks


def test_one_point() -> None:
    found = told(run_of(metrics=[{"step": 5, "loss": 2.5, "rewards/accuracies": 0.5}, TOTALS]))
    assert "the loss was 2.5 at the one step that was logged" in found.sentence


def test_values_that_are_not_finite_are_reported() -> None:
    lines = training_lines(20)
    lines[6]["loss"] = lines[9]["loss"] = float("nan")
    found = told(run_of(metrics=[*lines, {"step": 20, "eval_hh_loss": float("inf")}, TOTALS]))
    assert any(
        remark.startswith("loss was NaN or infinite at 2 logged steps, first at step 7")
        for remark in found.remarks
    )
    assert any(remark.startswith("loss on hh was NaN or infinite") for remark in found.remarks)


@pytest.mark.parametrize("junk", [None, 3, "x", [], {"after": 3}, {"before": [1]}, {"after": {}}])
def test_an_evaluation_that_is_none(junk: Any) -> None:
    found = told(run_of(metrics=[*training_lines(20), TOTALS], evaluation=junk))
    assert found.sentence.startswith("On its training pairs")


def test_a_share_that_is_not_finite_is_not_measured() -> None:
    sides = evaluation({"preference_accuracy": float("nan")}, {"preference_accuracy": 0.5})
    assert "(before: not measured)" in told(run_of(metrics=[TOTALS], evaluation=sides)).sentence


def test_numbers_as_a_reader_likes_them() -> None:
    assert [as_number(x) for x in (0.021312, -1.23456, 12345.6, 8e-6, float("nan"), None)] == [
        "0.02131",
        "−1.235",
        "12,346",
        "8e-06",
        "NaN",
        "–",
    ]
    assert (as_number(float("-inf")), as_number(2e300), as_number(-8e-6)) == (
        "−∞",
        "2e+300",
        "−8e-06",
    )
    assert as_pair(2.079, 0.9674) == ("2.08", "0.97")
    assert as_pair(-1.5, 1e-5) == ("−1.50", "0.00")
    assert as_pair(1.00001, 1.00002) == ("1", "1")
    assert as_pair(0.0, 0.0) == ("0", "0")
    assert (as_percent(0.931), as_percent(1.7)) == ("93.1\u00a0%", "1.7")
    assert as_change(0.615, 0.931, share=True) == "+31.6\u00a0pp"
    assert as_change(2.0, 1.5, share=False) == "−0.5"
    assert (as_count(1, "pair"), as_count(1200, "reply")) == ("1 pair", "1,200 replies")
    assert (joined(["a"]), joined(["a", "b", "c"]), joined([])) == ("a", "a, b and c", "")
