"""From judgments to scores: in all, by turn, by category, with intervals and a full account."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from orpo.evaluate.intervals import Interval, mean_interval, paired_interval
from orpo.evaluate.judge.fences import excerpt
from orpo.evaluate.mt_bench.protocol import CATEGORIES, HIGHEST, LOWEST, category_of
from orpo.evaluate.mt_bench.verdicts import Judgment, named_ratings, parse_rating

__all__ = ["Scores", "mt_bench_scores", "paired_difference"]

K = TypeVar("K")


@dataclass(frozen=True)
class Scores:
    """One model's scores on the scale of 1 to 10.

    Every mean is over judgments, as the protocol has it: of an answer that was judged twice, both
    count. A suspicious answer counts as judged. A judgment without a score is not averaged in; it
    is counted in `unparsed`. rows = n + unparsed + out_of_range.

    Attributes:
        overall: The mean of both turns; None if nothing was scored.
        by_turn: 1, 2 -> mean.
        by_category: Category -> mean, in the benchmark's order.
        by_category_and_turn: Category -> {1, 2 -> mean}.
        n: Judgments averaged.
        unparsed: Judgments without a score: -1 in FastChat's files.
        intervals: "overall", "turn 1", "turn 2" and each category -> 95 % interval; questions are
            drawn, not judgments.
        without_flagged: The mean of both turns of what is not suspicious; None where all is, or
            nothing.
        flagged: Flag -> judgments; one can have several.
        flagged_answers: Answers that are suspicious.
        flagged_rows: Which: question, turn, flags and score of each.
        out_of_range: Judgments whose score is not from 0 to 10; not averaged in.
        judged_again: Answers with several judgments by one judge, which are all averaged in.
        disagreeing: Judgments whose text names another score than the one recorded.
        conflicting: Judgments that name two different scores; the first counts.
        judges: Who judged.
    """

    overall: float | None
    by_turn: dict[int, float]
    by_category: dict[str, float]
    by_category_and_turn: dict[str, dict[int, float]]
    n: int
    unparsed: int
    intervals: dict[str, Interval]
    without_flagged: float | None
    flagged: dict[str, int]
    flagged_answers: int
    flagged_rows: tuple[dict[str, Any], ...]
    out_of_range: int
    judged_again: int
    disagreeing: int
    conflicting: int
    judges: tuple[str, ...]

    @property
    def rows(self) -> int:
        """All judgments that came in."""
        return self.n + self.unparsed + self.out_of_range

    def as_dict(self) -> dict[str, Any]:
        """For JSON; turns become text, as JSON wants its keys."""
        return {
            **vars(self),
            "by_turn": _keyed(self.by_turn),
            "by_category_and_turn": {c: _keyed(t) for c, t in self.by_category_and_turn.items()},
            "intervals": {name: one.as_dict() for name, one in self.intervals.items()},
            "flagged_rows": list(self.flagged_rows),
            "judges": list(self.judges),
            "rows": self.rows,
        }


def mt_bench_scores(
    judgments: Iterable[Judgment], categories: Mapping[int | str, str] | None = None
) -> dict[str, Scores]:
    """The scores of each model in the order in which they come.

    Args:
        judgments: Of one model or several.
        categories: Question -> category, where questions are not the benchmark's 81 to 160.
    """
    models: dict[str, list[Judgment]] = defaultdict(list)
    for judgment in judgments:
        models[judgment.model].append(judgment)
    return {model: _scores(rows, categories) for model, rows in models.items()}


@dataclass(frozen=True)
class _Grade:
    """A judgment that counts."""

    question: int | str
    turn: int
    category: str
    value: float


def _scores(rows: list[Judgment], categories: Mapping[int | str, str] | None) -> Scores:
    grades = [
        _Grade(row.question_id, row.turn, category_of(row.question_id, categories), value)
        for row in rows
        if (value := _counted(row)) is not None
    ]
    plain = [value for row in rows if not row.flags and (value := _counted(row)) is not None]
    flagged = [row for row in rows if row.flags]
    left = [row for row in rows if _counted(row) is None]
    unparsed = sum(row.score is None for row in left)
    times = Counter((row.question_id, row.turn, row.judge) for row in rows)
    order = [*CATEGORIES, *sorted({g.category for g in grades} - set(CATEGORIES))]
    by_category = _grouped(grades, lambda g: g.category)
    return Scores(
        overall=_mean(grades) if grades else None,
        by_turn={turn: _mean(some) for turn, some in sorted(_grouped(grades, _turn).items())},
        by_category={name: _mean(by_category[name]) for name in order if name in by_category},
        by_category_and_turn={
            name: {
                turn: _mean(some)
                for turn, some in sorted(_grouped(by_category[name], _turn).items())
            }
            for name in order
            if name in by_category
        },
        n=len(grades),
        unparsed=unparsed,
        intervals=_intervals(grades),
        without_flagged=sum(plain) / len(plain) if plain and flagged else None,
        flagged=_flagged(rows),
        flagged_answers=len({(row.question_id, row.turn) for row in flagged}),
        flagged_rows=tuple(_row(row) for row in flagged),
        out_of_range=len(left) - unparsed,
        judged_again=sum(count > 1 for count in times.values()),
        disagreeing=sum(_disagrees(row) for row in rows),
        conflicting=sum(len(named_ratings(row.judgment)) > 1 for row in rows),
        judges=tuple(dict.fromkeys(row.judge for row in rows if row.judge)),
    )


def _counted(row: Judgment) -> float | None:
    return row.score if row.score is not None and _on_scale(row.score) else None


def _on_scale(score: float) -> bool:
    """Zero among it: judges give it to empty answers, and FastChat averages it in."""
    return 0 <= score <= HIGHEST


def _turn(grade: _Grade) -> int:
    return grade.turn


def _grouped(grades: Sequence[_Grade], key: Callable[[_Grade], K]) -> dict[K, list[_Grade]]:
    groups: dict[K, list[_Grade]] = defaultdict(list)
    for grade in grades:
        groups[key(grade)].append(grade)
    return groups


def _mean(grades: Sequence[_Grade]) -> float:
    return sum(grade.value for grade in grades) / len(grades)


def _intervals(grades: Sequence[_Grade]) -> dict[str, Interval]:
    groups = {
        **({"overall": list(grades)} if grades else {}),
        **{f"turn {turn}": some for turn, some in sorted(_grouped(grades, _turn).items())},
        **_grouped(grades, lambda g: g.category),
    }
    return {name: _interval(some) for name, some in groups.items()}


def _interval(grades: Sequence[_Grade]) -> Interval:
    """Cut to the scale: what lies outside of it cannot be the truth."""
    values = [grade.value for grade in grades]
    found = mean_interval(values, [grade.question for grade in grades], share=False)
    low = max(found.low, min(LOWEST, *values))
    return replace(found, low=low, high=min(found.high, HIGHEST))


def _flagged(rows: Sequence[Judgment]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        for flag in row.flags:
            counts[flag] += 1
    return dict(counts)


def _row(row: Judgment) -> dict[str, Any]:
    return {
        "question_id": row.question_id,
        "turn": row.turn,
        "flags": list(row.flags),
        "score": row.score,
        "excerpt": excerpt(row.user_prompt),
    }


def _disagrees(row: Judgment) -> bool:
    return bool(row.judgment) and parse_rating(row.judgment) != row.score


def _keyed(values: Mapping[int, float]) -> dict[str, float]:
    return {str(key): value for key, value in values.items()}


def paired_difference(judgments: Sequence[Judgment], others: Sequence[Judgment]) -> Interval | None:
    """How much higher a model scores than another on the answers that both were graded for.

    Args:
        judgments: Of the one model.
        others: Of the other; the difference is positive where these are lower.

    Returns:
        The mean difference with its interval, questions drawn; None if nothing is in common.
    """
    ours, theirs = _by_answer(judgments), _by_answer(others)
    shared = [key for key in ours if key in theirs]
    if not shared:
        return None
    return paired_interval(
        [theirs[key] for key in shared],
        [ours[key] for key in shared],
        [question for question, _ in shared],
        share=False,
    )


def _by_answer(judgments: Sequence[Judgment]) -> dict[tuple[int | str, int], float]:
    """The mean of each answer's scores."""
    found: dict[tuple[int | str, int], list[float]] = defaultdict(list)
    for row in judgments:
        if (value := _counted(row)) is not None:
            found[row.question_id, row.turn].append(value)
    return {answer: sum(values) / len(values) for answer, values in found.items()}
