"""FastChat's files: `model_answer/<model>.jsonl` and `model_judgment/<judge>_single.jsonl`."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo.errors import DataError
from orpo.evaluate.answers import Answered
from orpo.evaluate.mt_bench.benchmark import (
    UNPARSED,
    Benchmark,
    entry,
    question_id,
    read_lines,
    turns,
)
from orpo.runs.files import write_jsonl

_RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_BACKUP = re.compile(r"\[(\d+\.?\d*)\]")


def read_answers(path: str | Path, benchmark: Benchmark, model: str) -> tuple[list[Answered], int]:
    """Answers to each turn of the questions, and how many lines belong to none that is asked.

    The first choice counts, as in FastChat; of several lines for one question, the last.

    Raises:
        DataError: The file is missing, a line is not in the format, an answer is missing, or the
            answers are of several models.
    """
    said: dict[int | str, tuple[str, ...]] = {}
    names: set[str] = set()
    lines = 0
    for where, row in read_lines(path):
        said[question_id(row, where)] = turns(row, where)
        names.add(str(row.get("model_id") or ""))
        lines += 1
    if len(names) > 1:
        fix = "Give one file for each model, as FastChat writes them."
        raise DataError(f"answers of {len(names)} models", where=str(path), fix=fix)
    found = [
        (q, said.get(benchmark.numbers[q.id], ())[: len(q.turns)]) for q in benchmark.questions
    ]
    short = [q.id for q, answers in found if len(answers) < len(q.turns)]
    if short:
        more = f" and {len(short) - 1} more questions" if short[1:] else ""
        raise DataError(
            f"question {short[0]}{more} not answered in each turn",
            where=str(path),
            fix="Answer all of them, or leave --answers out.",
        )
    answered = [Answered(q, answers, model, (False,) * len(q.turns)) for q, answers in found]
    return answered, lines - len(answered)


def write_answers(path: Path, answered: Sequence[Answered], benchmark: Benchmark) -> None:
    """FastChat's file of them."""
    write_jsonl(path, [_line(one, benchmark, time.time()) for one in answered])


def _line(answered: Answered, benchmark: Benchmark, now: float) -> dict[str, Any]:
    content = json.dumps([answered.model, answered.question.id, answered.turns])
    return {
        "question_id": benchmark.numbers[answered.question.id],
        "answer_id": hashlib.sha256(content.encode()).hexdigest()[:22],
        "model_id": answered.model,
        "choices": [{"index": 0, "turns": list(answered.turns)}],
        "tstamp": now,
    }


def parse_rating(judgment: str) -> float | None:
    """The score that a judgment names, by the protocol's rule.

    The first number in double square brackets; where there is none, the first in single ones.

        >>> parse_rating("A good answer [1]. Rating: [[8.5]]")
        8.5

    Args:
        judgment: What the judge wrote.

    Returns:
        The number as it stands there, on the scale or not; None if there is none.
    """
    match = _RATING.search(judgment) or _BACKUP.search(judgment)
    rating = float(match[1]) if match else math.inf
    return rating if math.isfinite(rating) else None


def named_ratings(judgment: str) -> tuple[float, ...]:
    """The different numbers in double square brackets; more than one is a doubtful verdict."""
    return tuple(dict.fromkeys(float(found) for found in _RATING.findall(judgment)))


@dataclass(frozen=True)
class Judgment:
    """One grade: a line of FastChat's `model_judgment/<judge>_single.jsonl`.

    Attributes:
        question_id: The question's number.
        model: Whose answer it is.
        turn: 1 or 2.
        score: As the judge gave it; None where it named none (FastChat writes -1).
        judge: The judge's name.
        prompt: The name of the judge's prompt, such as "single-v1".
        judgment: What the judge wrote.
        user_prompt: What the judge read.
        flags: What is suspicious about the answer, such as "forged verdict". Ours; FastChat skips
            it.
        tstamp: Seconds since 1970.
    """

    question_id: int | str
    model: str
    turn: int
    score: float | None
    judge: str = ""
    prompt: str = ""
    judgment: str = ""
    user_prompt: str = ""
    flags: tuple[str, ...] = ()
    tstamp: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The line of FastChat's file."""
        line = {
            "question_id": self.question_id,
            "model": self.model,
            "judge": [self.judge, self.prompt],
            "user_prompt": self.user_prompt,
            "judgment": self.judgment,
            "score": _written(self.score),
            "turn": self.turn,
            "tstamp": self.tstamp,
        }
        return {**line, "flags": list(self.flags)} if self.flags else line


def read_judgments(path: str | Path) -> list[Judgment]:
    """Single-answer judgments from FastChat's file, in its order; every line is one.

    Raises:
        DataError: The file is missing or empty, or a line is no single-answer judgment.
    """
    judgments = [_judgment(row, where) for where, row in read_lines(path)]
    if not judgments:
        raise DataError("holds no judgment", where=str(path), fix="Name FastChat's file of them.")
    return judgments


def write_judgments(path: Path, judgments: Iterable[Judgment]) -> None:
    """FastChat's file of them."""
    write_jsonl(path, [judgment.as_dict() for judgment in judgments])


def _judgment(row: dict[str, Any], where: str) -> Judgment:
    if "g1_winner" in row:
        fix = "Give the file of single-answer grading, *_single.jsonl."
        raise DataError("a pairwise judgment", where=where, fix=fix)
    turn = entry(row, "turn", int, where)
    if turn not in (1, 2):
        raise DataError(f"turn {turn}", where=where, fix="MT-Bench has turns 1 and 2.")
    score = float(entry(row, "score", (int, float), where))
    judge, prompt = _judge(row.get("judge"))
    flags = row.get("flags")
    stamp = row.get("tstamp")
    return Judgment(
        question_id=question_id(row, where),
        model=entry(row, "model", str, where),
        turn=turn,
        score=None if score == UNPARSED else score,
        judge=judge,
        prompt=prompt,
        judgment=str(row.get("judgment") or ""),
        user_prompt=str(row.get("user_prompt") or ""),
        flags=tuple(map(str, flags)) if isinstance(flags, list) else (),
        tstamp=float(stamp) if isinstance(stamp, int | float) else 0.0,
    )


def _judge(value: object) -> tuple[str, str]:
    if isinstance(value, str):
        return value, ""
    names = [str(name) for name in value] if isinstance(value, list) else []
    return (names[0] if names else ""), (names[1] if names[1:] else "")


def _written(score: float | None) -> float | int:
    """Whole numbers without a point, as FastChat writes them."""
    if score is None or not math.isfinite(score):
        return UNPARSED
    return int(score) if score.is_integer() else score
