"""From judgments to scores, held against pandas and counts by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from orpo.evaluate import mt_bench_scores, read_judgments
from orpo.evaluate.mt_bench.benchmark import CATEGORIES
from orpo.evaluate.mt_bench.fastchat import Judgment
from orpo.evaluate.mt_bench.scores import paired_difference

pd = pytest.importorskip("pandas")


def graded(question: int, turn: int, score: float | None, **more: object) -> Judgment:
    return dataclasses.replace(Judgment(question, "m", turn, score, "gpt-4"), **more)


def test_the_published_models(shared_data: Path) -> None:
    folder = shared_data / "mt_bench"
    scores = mt_bench_scores(read_judgments(folder / "judgments.jsonl"))
    assert round(scores["mistral-orpo-trl"].overall or 0, 3) == 7.166
    assert round(scores["mistral-orpo-capybara"].overall or 0, 3) == 6.819

    rows = pd.read_json(folder / "judgments.jsonl", lines=True)
    questions = pd.read_json(folder / "question.jsonl", lines=True)[["question_id", "category"]]
    rows = rows.merge(questions, on="question_id", validate="many_to_one")
    for model, found in scores.items():
        own = rows[rows.model == model]
        assert found.overall == pytest.approx(own.score.mean(), abs=1e-12)
        assert found.by_turn == pytest.approx(own.groupby("turn").score.mean().to_dict())
        assert found.by_category == pytest.approx(own.groupby("category").score.mean().to_dict())
        both = own.pivot_table(index="category", columns="turn", values="score").to_dict("index")
        assert found.by_category_and_turn.keys() == both.keys()
        for name, turns in both.items():
            assert found.by_category_and_turn[name] == pytest.approx(turns)
        assert tuple(found.by_category) == CATEGORIES
        assert (found.n, found.unparsed, found.rows, found.judges) == (160, 0, 160, ("gpt-4",))
        span = found.intervals["overall"]
        assert 1 < span.low < (found.overall or 0) < span.high < 10
        assert (span.n, span.clusters) == (160, 80)
        assert set(found.intervals) == {"overall", "turn 1", "turn 2", *CATEGORIES}


def test_what_has_no_score_is_counted_and_not_averaged() -> None:
    rows = [graded(81, 1, 8), graded(81, 2, None), graded(82, 1, 4), graded(82, 2, 100)]
    (found,) = mt_bench_scores(rows).values()
    assert (found.overall, found.n, found.unparsed, found.out_of_range) == (6, 2, 1, 1)
    assert found.by_turn == {1: 6}
    assert found.rows == len(rows)


def test_nothing_but_unparsed() -> None:
    (found,) = mt_bench_scores([graded(81, 1, None)]).values()
    assert (found.overall, found.without_flagged, found.n, found.unparsed) == (None, None, 0, 1)
    assert found.intervals == {}


def test_a_flagged_answer_counts_as_judged() -> None:
    rows = [graded(81, 1, 8), graded(82, 1, 10, flags=("forged verdict",))]
    rows += [graded(83, 1, None, flags=("empty", "constant answer"))]
    (found,) = mt_bench_scores(rows).values()
    assert found.overall == found.by_category["writing"] == 9
    assert found.without_flagged == 8
    assert (found.n, found.unparsed, found.flagged_answers) == (2, 1, 2)
    assert [(row.question_id, row.score) for row in found.flagged_rows] == [
        (82, 10),
        (83, None),
    ]
    assert found.flagged == {"forged verdict": 1, "empty": 1, "constant answer": 1}


def test_all_judgments_of_an_answer_are_averaged_as_fastchat_does(shared_data: Path) -> None:
    """show_result.py groups all rows that have a score by model, whatever they are of."""
    rows = [graded(81, 1, 2), graded(81, 1, 6), graded(82, 1, 10), graded(82, 1, None)]
    (found,) = mt_bench_scores(rows).values()
    assert (found.overall, found.n, found.unparsed) == (6, 3, 1)
    assert (found.judged_again, found.rows) == (2, 4)

    path = shared_data / "mt_bench" / "judgments.jsonl"
    once = read_judgments(path)
    again = [dataclasses.replace(row, score=(row.score or 0) / 2) for row in once[::3]]
    failed = [dataclasses.replace(row, score=None) for row in once[::7]]
    for model, scores in mt_bench_scores([*once, *again, *failed]).items():
        table = pd.DataFrame(
            [(r.turn, r.score) for r in (*once, *again, *failed) if r.model == model],
            columns=["turn", "score"],
        ).dropna()
        assert scores.overall == pytest.approx(table.score.mean(), abs=1e-12)
        assert scores.by_turn == pytest.approx(table.groupby("turn").score.mean().to_dict())
        assert scores.n == len(table)
        assert scores.judged_again > 50


def test_two_judges_are_named_and_their_answers_not_judged_again() -> None:
    (found,) = mt_bench_scores([graded(81, 1, 2), graded(81, 1, 6, judge="other")]).values()
    assert (found.overall, found.judged_again, found.judges) == (4, 0, ("gpt-4", "other"))


def test_doubtful_judgments_are_counted() -> None:
    rows = [
        graded(81, 1, 9, judgment="Rating: [[3]]"),
        graded(82, 1, 5, judgment="Between [[5]] and [[6]]"),
        graded(83, 1, None, judgment="Rating: [[5]]"),
    ]
    (found,) = mt_bench_scores(rows).values()
    assert (found.disagreeing, found.conflicting) == (2, 1)


def test_categories_of_other_questions() -> None:
    rows = [graded(1, 1, 5), graded(2, 1, 7), graded(81, 1, 9)]
    (found,) = mt_bench_scores(rows, {1: "law", 2: "math"}).values()
    assert found.by_category == {"writing": 9, "math": 7, "law": 5}
    (unknown,) = mt_bench_scores(rows[:1]).values()
    assert unknown.by_category == {"other": 5}


def test_intervals_stay_on_the_scale() -> None:
    (one,) = mt_bench_scores([graded(81, 1, 10), graded(81, 2, 10)]).values()
    assert (one.intervals["overall"].low, one.intervals["overall"].high) == (1, 10)


def test_a_difference_is_paired_by_answer() -> None:
    ours = [graded(n, turn, 5 + n % 3) for n in range(81, 101) for turn in (1, 2)]
    theirs = [dataclasses.replace(one, score=(one.score or 0) - 1) for one in ours[:-1]]
    found = paired_difference(ours, theirs)
    assert found is not None
    assert (found.value, found.n, found.clusters) == (pytest.approx(1), 39, 20)
    assert paired_difference(ours, [graded(7, 1, 5)]) is None
