"""Answers in FastChat's format: `model_answer/<model>.jsonl`."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orpo.errors import DataError
from orpo.evaluate.answers import Answered, AnswerSource, Question, answer_questions
from orpo.evaluate.mt_bench.data import Benchmark
from orpo.evaluate.mt_bench.lines import question_id, read_lines, turns
from orpo.evaluate.mt_bench.protocol import temperature_of
from orpo.evaluate.settings import Sampling
from orpo.runs import write_jsonl

__all__ = ["answer_benchmark", "read_answers", "write_answers"]


def answer_benchmark(
    source: AnswerSource,
    questions: Sequence[Question],
    sampling: Sampling,
    folder: Path,
    say: Callable[[str], None],
) -> list[Answered]:
    """Answers at the protocol's temperature for each category, in the order of the questions.

    Args:
        source: Who answers.
        questions: Of the benchmark.
        sampling: Seed, length and batch size; its temperature is not used.
        folder: Keeps one file of finished answers for each temperature; a broken run goes on.
        say: Told what happens.
    """
    found: dict[str, Answered] = {}
    for degree in sorted({temperature_of(question.category) for question in questions}):
        group = [q for q in questions if temperature_of(q.category) == degree]
        say(f"{len(group)} question{'s' * (len(group) > 1)} at temperature {degree:g}")
        store = folder / f"temperature-{degree:g}.jsonl"
        drawn = replace(sampling, temperature=degree)
        answered = answer_questions(source, group, drawn, store, say)
        found |= {one.question.id: one for one in answered}
    return [found[question.id] for question in questions]


def read_answers(path: str | Path, benchmark: Benchmark, model: str) -> tuple[list[Answered], int]:
    """Answers from FastChat's file, and how many lines belong to no question that is asked.

    The first choice counts, as in FastChat; of several lines for one question, the last.

    Args:
        path: The file.
        benchmark: Its questions have to be answered, each turn.
        model: What the model is called from here on.

    Raises:
        DataError: The file is missing, a line is not in the format, an answer is missing, or the
            answers are of several models.
    """
    said: dict[int | str, tuple[str, ...]] = {}
    names: dict[str, None] = {}
    lines = 0
    for where, row in read_lines(path):
        said[question_id(row, where)] = turns(row, where)
        names[str(row.get("model_id") or "")] = None
        lines += 1
    if len(names) > 1:
        fix = "Give one file for each model, as FastChat writes them."
        raise DataError(f"answers of {len(names)} models", where=str(path), fix=fix)
    _check(said, benchmark, path)
    answered = [
        Answered(q, _taken(said, benchmark, q), model, (False,) * len(q.turns))
        for q in benchmark.questions
    ]
    return answered, lines - len(answered)


def write_answers(path: Path, answered: Sequence[Answered], benchmark: Benchmark) -> None:
    """FastChat's file of them."""
    write_jsonl(path, [_line(one, benchmark, time.time()) for one in answered])


def _taken(
    said: dict[int | str, tuple[str, ...]], benchmark: Benchmark, question: Question
) -> tuple[str, ...]:
    return said[benchmark.numbers[question.id]][: len(question.turns)]


def _check(said: dict[int | str, tuple[str, ...]], benchmark: Benchmark, path: str | Path) -> None:
    short = [
        question.id
        for question in benchmark.questions
        if len(said.get(benchmark.numbers[question.id], ())) < len(question.turns)
    ]
    if short:
        more = f" and {len(short) - 1} more questions" if short[1:] else ""
        raise DataError(
            f"question {short[0]}{more} not answered in each turn",
            where=str(path),
            fix="Answer all of them, or leave --answers out.",
        )


def _line(answered: Answered, benchmark: Benchmark, now: float) -> dict[str, Any]:
    content = json.dumps([answered.model, answered.question.id, answered.turns])
    return {
        "question_id": benchmark.numbers[answered.question.id],
        "answer_id": hashlib.sha256(content.encode()).hexdigest()[:22],
        "model_id": answered.model,
        "choices": [{"index": 0, "turns": list(answered.turns)}],
        "tstamp": now,
    }
