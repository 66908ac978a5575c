"""Answers to questions: by a model here or behind a server, kept so that nothing is asked twice.

A line of the file that keeps them:

    {"id": "81", "prompt": "...", "answer": "...", "truncated": false, "model": "run",
     "made_by": {"weights": "...", "max_new_tokens": 256, ...}, "key": "..."}

A question of several turns has `turns`, `answers` and `truncated` as lists instead of `prompt` and
`answer`. `made_by` is all that the answer depends on beside the question, and `key` the question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from orpo.errors import ConfigError
from orpo.evaluate.asking import Say, endpoint_at, silent
from orpo.evaluate.questions import (
    Answered,
    AnswerSource,
    Asked,
    Question,
    keyed,
    read_questions,
)
from orpo.evaluate.settings import Sampling
from orpo.evaluate.store import ANOTHER, Store, open_store
from orpo.runs.files import ensure_reachable

__all__ = ["Answered", "Question", "answer_questions", "open_source_of_answers", "read_questions"]


def open_source_of_answers(
    model: str,
    *,
    server: str | None = None,
    api_key_env: str = "OPENAI_API_KEY",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    raw: bool = False,
    template_kwargs: Mapping[str, Any] | None = None,
) -> AnswerSource:
    """A model that answers: behind an OpenAI-compatible server, or loaded with the first question.

    What follows `api_key_env` is not for a server: `raw` continues texts without a chat template,
    `template_kwargs` win over the template's variables of the training.
    """
    if server is None:
        ensure_reachable(model)  # said before torch is loaded
        from orpo.evaluate.generation import LocalSource  # noqa: PLC0415 - loads torch

        return LocalSource(model, dtype, trust_remote_code, raw, template_kwargs or {})
    if template_kwargs:
        raise ConfigError(
            "a server renders its chat template itself",
            where="--chat_template_kwargs",
            fix="Set its defaults there, or leave out --server.",
        )
    if raw:
        what = "a server applies its chat template to whatever it is asked"
        raise ConfigError(what, where="--raw", fix="Leave out --raw or --server.")
    endpoint = endpoint_at(model, server, api_key_env)
    from orpo.evaluate.served import ServedSource  # noqa: PLC0415 - loads openai

    return ServedSource(endpoint)


def answer_questions(
    source: AnswerSource,
    questions: Sequence[Question],
    sampling: Sampling,
    store: Path | None = None,
    say: Say = silent,
) -> list[Answered]:
    """One answer to each turn of each question, in the order of the questions.

    Answers depend on the model, the question and the sampling (its seed too, if answers are
    drawn), and neither on the order nor on the number of the other questions, up to rounding in
    the batches of a model. A run that was broken off and goes on repeats the batches of a run
    that never broke, so there not even the rounding differs.

    `store` is a JSONL file that keeps every finished question at once; what is in it already is
    not asked again, and answers of another model, of other settings or to other questions are
    refused. In the end its lines are in the order of the questions.
    """
    how = {"max_new_tokens": sampling.max_new_tokens, "temperature": float(sampling.temperature)}
    if sampling.temperature > 0:
        how |= {"top_p": float(sampling.top_p), "seed": sampling.seed}
    made_by = {**source.identity(), **how}
    asked = keyed(questions)
    with open_store(store, _check, begins='{"id": ', strict=True, say=say) as kept:
        found = _found(kept, asked, made_by, source.model)
        if found:
            say(f"{len(found)} of {len(asked)} answers are in {store} already")
        asked = [replace(one, wanted=one.key not in found) for one in asked]
        if any(one.wanted for one in asked):
            with closing(source.answers(asked, sampling)) as finished:
                for key, answered in finished:
                    found[key] = answered
                    kept.add(_line(key, answered, made_by))
        kept.put_in_order([one.key for one in asked])
    every = [found[one.key] for one in asked]
    cut, empty = sum(any(one.truncated) for one in every), sum(not all(one.turns) for one in every)
    if cut:
        say(f"{cut} of {len(every)} answers were cut off at the limit of tokens")
    if empty:
        say(f"{empty} of {len(every)} answers are empty")
    return every


def _line(key: str, answered: Answered, made_by: Mapping[str, Any]) -> dict[str, Any]:
    question, truncated = answered.question, list(answered.truncated)
    several = len(question.turns) > 1
    opening = question.conversation()[:-1]
    return {
        "id": question.id,
        **({"category": question.category} if question.category else {}),
        **({"before": opening} if several and opening else {}),
        **answered.row(),
        "truncated": truncated if several else truncated[0],
        "model": answered.model,
        "made_by": dict(made_by),
        "key": key,
    }


def _check(line: dict[str, Any]) -> None:
    turns = line["answers"] if "answers" in line else [line["answer"]]
    texts = all(isinstance(turn, str) for turn in [*turns, line["model"]])
    if not texts or not isinstance(line["made_by"], dict):
        raise TypeError(line)


def _found(
    kept: Store, asked: Sequence[Asked], made_by: Mapping[str, Any], model: str
) -> dict[str, Answered]:
    """What is in the store already, which has to be of the same model and of these questions."""
    for number, line in enumerate(kept.lines.values(), 1):
        theirs = line["made_by"]
        for name in sorted({*theirs, *made_by}):
            if theirs.get(name) != made_by.get(name):
                raise ConfigError(
                    f"was answered by {line['model']!r} with {name} {theirs.get(name)!r}, now it "
                    f"is {made_by.get(name)!r}",
                    where=f"{kept.path}:{number}",
                    fix=ANOTHER,
                )
    keys, held = {one.key for one in asked}, kept.lines.keys()
    if held - keys and keys - held:
        raise ConfigError(
            f"holds answers to {len(held - keys)} questions that are not among these {len(keys)}",
            where=str(kept.path),
            fix=ANOTHER,
        )
    found = {}
    for one in asked:
        if one.key in held:
            line = kept.lines[one.key]
            turns = line["answers"] if "answers" in line else [line["answer"]]
            cut = line.get("truncated", False)
            truncated = tuple(map(bool, cut if isinstance(cut, list) else [cut]))
            found[one.key] = Answered(one.question, tuple(turns), model, truncated)
    return found
