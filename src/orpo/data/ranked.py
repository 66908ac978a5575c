"""Lists of scored or ranked answers: which two of them make the pair.

best_worst     the best answer against the worst: the clearest preference, and the default
best_second    the best against the runner-up: the hardest one
best_random    the best against one of the worse ones, drawn by the prompt's text alone
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orpo.data.fields import as_messages, required, wrong_type
from orpo.data.types import Dropped, Messages, Row
from orpo.errors import DataError

__all__ = ["ANSWERS", "PAIR_RULES", "Preference", "answers_column", "choose_pair", "has_answers"]

PAIR_RULES = ("best_worst", "best_second", "best_random")

ANSWERS = ("answers", "responses", "completions", "candidates", "generations", "continuations")
"""Names of the column that holds the answers."""

_SCORES = ("scores", "ratings", "rewards")
_RANKS = ("ranks", "ranking", "rank")
_SAID = (
    *("answer", "response", "completion", "continuation", "content", "text", "output", "value"),
)
_SCORE = ("overall_score", "score", "rating", "reward", "pm_score")
_RANK = ("rank", "ranking")


@dataclass(frozen=True)
class Preference:
    """Two answers out of several.

    Attributes:
        chosen: The better one: a text, or messages.
        rejected: The worse one.
        scores: What they were given, higher is better (a rank is counted negative).
    """

    chosen: str | Messages
    rejected: str | Messages
    scores: tuple[float, float]


def has_answers(columns: Mapping[str, Any], *, empty: bool = False) -> bool:
    """Whether a column holds a list of answers; an empty one counts beside scores, or if asked."""
    scored = any(isinstance(columns.get(name), list) for name in (*_SCORES, *_RANKS))
    lists = (columns[name] for name in ANSWERS if isinstance(columns.get(name), list))
    return any(answers or empty or scored for answers in lists)


def answers_column(row: Row) -> str:
    """The name of the row's column that holds its answers.

    Raises:
        DataError: It holds no list, or there is none.
    """
    there = [name for name in ANSWERS if name in row.values]
    name = next((name for name in there if isinstance(row.values[name], list)), "")
    if not name and there:
        raise wrong_type(row, there[0], "a list of answers")
    return name or str(required(row, ANSWERS[0]))


def choose_pair(row: Row, rule: str) -> Preference | Dropped:
    """The two answers of a row that make its pair.

    Raises:
        DataError: The answers, or their scores, cannot be read.
    """
    name = answers_column(row)
    answers = [_answer(item, row, name) for item in required(row, name)]
    scores = _scores(row, name)
    if len(scores) != len(answers):
        raise DataError(
            f"{len(scores)} scores for {len(answers)} answers",
            where=f"{row.where}, field '{name}'",
            fix="Give one score for each answer.",
        )
    if len(answers) < 2:
        return Dropped("single_answer", row.where, f"{len(answers)} answers are no pair")
    # Stable: of equal ones the first counts as better.
    order = sorted(range(len(answers)), key=lambda i: -scores[i])
    worse = [i for i in order if scores[i] < scores[order[0]]]
    if not worse:
        return Dropped("tied_scores", row.where, "all answers have the same score")
    best, other = order[0], _other(worse, rule, answers)
    return Preference(answers[best], answers[other], (scores[best], scores[other]))


def _other(worse: list[int], rule: str, answers: list[Any]) -> int:
    if rule == "best_second":
        return worse[0]
    if rule == "best_random":
        text = json.dumps(answers, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        return worse[int.from_bytes(digest[:8]) % len(worse)]
    return worse[-1]


def _answer(item: Any, row: Row, name: str) -> str | Messages:
    value = _of(item, _SAID) if isinstance(item, Mapping) and "role" not in item else item
    found = value if isinstance(value, str) else as_messages(value)
    if not isinstance(found, str) and not found:
        raise wrong_type(row, name, "a list of answers (texts, or objects with a text and a score)")
    return found


def _scores(row: Row, name: str) -> list[float]:
    """One number for each answer, higher is better."""
    for names, sign in ((_SCORES, 1), (_RANKS, -1)):
        for column in names:
            value = row.values.get(column)
            if isinstance(value, list):
                return [sign * _number(item, row, column) for item in value]
    found = []
    for item in row.values[name]:
        parts = item if isinstance(item, Mapping) else {}
        score, rank = _of(parts, _SCORE), _of(parts, _RANK)
        if score is None and rank is None:
            raise DataError(
                "an answer has neither a score nor a rank",
                where=f"{row.where}, field '{name}'",
                fix="Give each answer a 'score' or 'rank', or add a column 'scores' or 'ranks'.",
            )
        found.append(_number(score, row, name) if rank is None else -_number(rank, row, name))
    return found


def _number(value: Any, row: Row, name: str) -> float:
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if abs(number) == float("inf") or number != number:  # noqa: PLR0124 - NaN is no score either
        raise wrong_type(row, name, "finite numbers as scores")
    return number


def _of(parts: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((parts[name] for name in names if parts.get(name) is not None), None)
