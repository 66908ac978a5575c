"""From judgments to scores: in all, by turn, by category, with intervals and a full account."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from orpo.errors import DataError
from orpo.evaluate.intervals import Interval, mean_interval, paired_interval
from orpo.evaluate.judge.fences import excerpt
from orpo.evaluate.mt_bench.benchmark import CATEGORIES, HIGHEST, LOWEST, category_of
from orpo.evaluate.mt_bench.fastchat import Judgment, named_ratings, parse_rating, read_judgments
from orpo.evaluate.results import FlaggedAnswer, Scores

K = TypeVar("K")


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
        flagged=dict(Counter(flag for row in rows for flag in row.flags)),
        flagged_answers=len({(row.question_id, row.turn) for row in flagged}),
        flagged_rows=tuple(
            FlaggedAnswer(row.question_id, row.turn, row.flags, row.score, excerpt(row.user_prompt))
            for row in flagged
        ),
        out_of_range=len(left) - unparsed,
        judged_again=sum(count > 1 for count in times.values()),
        disagreeing=sum(_disagrees(row) for row in rows),
        conflicting=sum(len(named_ratings(row.judgment)) > 1 for row in rows),
        judges=tuple(dict.fromkeys(row.judge for row in rows if row.judge)),
        rows=len(rows),
    )


def _counted(row: Judgment) -> float | None:
    """A score on the scale, and zero: judges give it to empty answers, FastChat averages it."""
    return row.score if row.score is not None and 0 <= row.score <= HIGHEST else None


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


def _disagrees(row: Judgment) -> bool:
    return bool(row.judgment) and parse_rating(row.judgment) != row.score


def paired_difference(judgments: Sequence[Judgment], others: Sequence[Judgment]) -> Interval | None:
    """How much higher a model scores than another on the answers that both were graded for.

    Questions are drawn; None if no answer is in common.
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


def compared(
    model: str,
    judgments: Sequence[Judgment],
    others: Sequence[tuple[str, Sequence[Judgment]]],
    categories: Mapping[int | str, str] | None,
) -> tuple[dict[str, Scores], dict[str, Interval]]:
    """(scores of a model and of others, by name; how much higher the model is than each of them).

    Args:
        model: What the model is called.
        judgments: Its own.
        others: (file, judgments of other models); the file may be empty.
        categories: Question -> category, if it is known.
    """
    models = {model: list(judgments)}
    for file, rows in others:
        for name in dict.fromkeys(one.model for one in rows):
            own = [one for one in rows if one.model == name]
            _put(models, name, Path(file.partition("=")[0]).stem, own)
    scores = {
        label: mt_bench_scores([replace(one, model=label) for one in rows], categories)[label]
        for label, rows in models.items()
    }
    differences = {  # scores by different judges are on different scales
        label: found
        for label, rows in models.items()
        if label != model
        and scores[label].judges == scores[model].judges
        and (found := paired_difference(judgments, rows))
    }
    return scores, differences


def _put(models: dict[str, list[Judgment]], model: str, file: str, rows: list[Judgment]) -> None:
    """Under its own name; where that is taken, by other judgments, with the file's behind it."""
    if rows in models.values():
        return
    label, number = model, 1
    while label in models:
        label = f"{model} ({file})" if number == 1 else f"{model} ({file}, {number})"
        number += 1
    models[label] = rows


def read_also(given: str) -> list[Judgment]:
    """Judgments of other models: FILE, or FILE=NAME,NAME for some of its models.

    Raises:
        DataError: The file is none of judgments, or has none of a model.
    """
    path, _, names = given.partition("=") if not Path(given).exists() else (given, "", "")
    found = read_judgments(path)
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if all(one.model != name for one in found):
            known = ", ".join(dict.fromkeys(one.model for one in found))
            raise DataError(f"no judgment of a model {name!r}", where=path, fix=f"It has: {known}.")
    return [one for one in found if not wanted or one.model in wanted]
