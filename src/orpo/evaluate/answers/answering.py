"""Answering questions, going on where an earlier run was broken off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from orpo.evaluate.answers.store import AnswerStore, open_store
from orpo.evaluate.answers.types import Answered, AnswerSource, Asked, Question, ask
from orpo.evaluate.generation import Sampling

__all__ = ["answer_questions"]

Say = Callable[[str], None]


def answer_questions(
    source: AnswerSource,
    questions: Sequence[Question],
    sampling: Sampling,
    store: Path | None = None,
    say: Say | None = None,
) -> list[Answered]:
    """One answer to each turn of each question, in the order of the questions.

    Answers depend on the model, the question and the sampling (its seed too, if answers are
    drawn), and neither on the order nor on the number of the other questions, up to rounding in
    the batches of a model. A run that was broken off and goes on repeats the batches of a run
    that never broke, so there not even the rounding differs.

    Args:
        source: Who answers.
        questions: What is asked.
        sampling: How answers are drawn; `batch_size` questions are asked at once.
        store: A JSONL file that keeps every finished question at once; what is in it already is
            not asked again. In the end its lines are in the order of the questions.
        say: Told, line by line, what happens.

    Raises:
        ConfigError: The store holds answers of another model, of other settings or to other
            questions.
        DataError: A line of the store is broken, or a question cannot be asked.
        UserError: The model cannot be loaded, or the server does not answer.
    """
    say = say or _unheard
    made_by = {**source.identity(), **settings_of(sampling)}
    asked = ask(questions)
    with open_store(store, made_by, say) if store else nullcontext() as kept:
        found = _stored(kept, asked, source, say)
        wanted = [replace(one, wanted=one.key not in found) for one in asked]
        _answer(source, wanted, sampling, kept, found)
        if kept is not None:
            kept.put_in_order(asked)
    answered = [found[one.key] for one in asked]
    _tell(answered, say)
    return answered


def settings_of(sampling: Sampling) -> dict[str, Any]:
    """What of the sampling answers depend on."""
    chosen: dict[str, Any] = {
        "max_new_tokens": sampling.max_new_tokens,
        "temperature": float(sampling.temperature),
    }
    if sampling.temperature > 0:
        chosen |= {"top_p": float(sampling.top_p), "seed": sampling.seed}
    return chosen


def _stored(
    kept: AnswerStore | None, asked: Sequence[Asked], source: AnswerSource, say: Say
) -> dict[str, Answered]:
    if kept is None:
        return {}
    found = kept.answers(asked, source.model)
    if found:
        say(f"{len(found)} of {len(asked)} answers are in {kept.path} already")
    return found


def _answer(
    source: AnswerSource,
    asked: Sequence[Asked],
    sampling: Sampling,
    kept: AnswerStore | None,
    found: dict[str, Answered],
) -> None:
    """Ask for what is wanted; every answer is kept before the next one is waited for."""
    if not any(one.wanted for one in asked):
        return
    for key, answered in source.answers(asked, sampling):
        found[key] = answered
        if kept is not None:
            kept.add(key, answered)


def _unheard(line: str) -> None:
    """Nobody listens."""


def _tell(answered: Sequence[Answered], say: Say) -> None:
    cut = sum(any(one.truncated) for one in answered)
    empty = sum(not all(one.turns) for one in answered)
    if cut:
        say(f"{cut} of {len(answered)} answers were cut off at the limit of tokens")
    if empty:
        say(f"{empty} of {len(answered)} answers are empty")
