"""Judgments: what the judge wrote, the score in it, and FastChat's file of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo.errors import DataError
from orpo.evaluate.mt_bench.lines import field, question_id, read_lines
from orpo.evaluate.mt_bench.protocol import UNPARSED
from orpo.runs import write_jsonl

__all__ = ["Judgment", "named_ratings", "parse_rating", "read_judgments", "write_judgments"]

_RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_BACKUP = re.compile(r"\[(\d+\.?\d*)\]")


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
    turn = field(row, "turn", int, where)
    if turn not in (1, 2):
        raise DataError(f"turn {turn}", where=where, fix="MT-Bench has turns 1 and 2.")
    score = float(field(row, "score", (int, float), where))
    judge, prompt = _judge(row.get("judge"))
    flags = row.get("flags")
    stamp = row.get("tstamp")
    return Judgment(
        question_id=question_id(row, where),
        model=field(row, "model", str, where),
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
