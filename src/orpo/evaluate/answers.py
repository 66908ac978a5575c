"""Answers to questions: by a model here or behind a server, kept so that nothing is asked twice.

A line of the file that keeps them:

    {"id": "81", "prompt": "...", "answer": "...", "truncated": false, "model": "run",
     "made_by": {"weights": "...", "max_new_tokens": 256, ...}, "key": "..."}

A question of several turns has `turns`, `answers` and `truncated` as lists instead of `prompt` and
`answer`. `made_by` is all that the answer depends on beside the question, and `key` the question.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

from orpo.errors import ConfigError
from orpo.evaluate.asking import Client, Refused, endpoint_at
from orpo.evaluate.pacing import Say, in_threads, silent
from orpo.evaluate.questions import (
    Answered,
    Answers,
    AnswerSource,
    Asked,
    Question,
    read_questions,
    spread,
)
from orpo.evaluate.settings import Sampling
from orpo.evaluate.store import ANOTHER, Store, open_store
from orpo.runs.files import located

__all__ = [
    "Answered",
    "Question",
    "answer_questions",
    "open_source_of_answers",
    "read_questions",
    "spread",
]


class ServerSource:
    """A model behind a server, asked for several answers at once."""

    def __init__(self, model: str, server: str, api_key_env: str = "OPENAI_API_KEY") -> None:
        self.model, self._endpoint = model, endpoint_at(model, server, api_key_env)
        with Client(self._endpoint):  # refused now, if it is not installed
            pass

    def identity(self) -> dict[str, Any]:
        """The name: the same model may answer from another address when a broken run goes on."""
        return {"served": self.model}

    def answers(self, asked: Sequence[Asked], sampling: Sampling) -> Answers:
        """Where one question fails for good, those under way are waited for before the error."""
        wanted, stop = [one for one in asked if one.wanted], Event()
        failed: Exception | None = None
        with Client(self._endpoint) as client:

            def work(one: Asked) -> Answered:
                try:
                    return self._answered(client, one, sampling)
                except Exception:
                    stop.set()  # here, ahead of this thread's next question
                    raise

            client.probe()
            for one, found in in_threads(work, wanted, sampling.batch_size, stop):
                if isinstance(found, Exception):
                    failed = failed or found
                else:
                    yield one.key, found
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Nothing is held: connections live as long as the questions that are asked."""

    def _answered(self, client: Client, one: Asked, sampling: Sampling) -> Answered:
        """Every turn of a question, each with the answers before it."""
        said: list[str] = []
        cut: list[bool] = []
        for _ in one.question.turns:
            try:
                reply = client.ask(
                    one.question.conversation(said),
                    question=one.question.id,
                    max_tokens=sampling.max_new_tokens,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p if sampling.top_p < 1 else None,
                    seed=sampling.seed + one.repeat,  # asked again, it is drawn again
                )
            except Refused as error:
                if not error.too_long:
                    raise
                said, cut = [*said, ""], [*cut, True]  # as a model here does
            else:
                said, cut = [*said, reply.text.strip()], [*cut, reply.finish_reason == "length"]
        return Answered(one.question, tuple(said), self.model, tuple(cut))


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
    """A model that answers: loaded here through transformers, or behind a server.

    Args:
        model: A model folder, an adapter folder or a Hub id; with a server, its name there.
        server: Address of an OpenAI-compatible server: `vllm serve`, `transformers serve`, any
            other. "http://localhost:8000" means "http://localhost:8000/v1".
        api_key_env: Environment variable with the server's key, if it asks for one.
        dtype: Of the weights; "auto" keeps what they are saved in. Not for a server.
        trust_remote_code: Allow the model's own code to run. Not for a server.
        raw: Continue texts as they are, without a chat template. Not for a server.
        template_kwargs: Variables for the chat template that win over those of the training. Not
            for a server.

    Raises:
        ConfigError: The address is none, `raw` is asked of a server, or the openai package is
            missing.
        ModelError: The tokenizer cannot be loaded; the model is loaded with the first question.
    """
    if server is None:
        located(model)  # said before torch is loaded
        from orpo.evaluate.local import LocalSource  # noqa: PLC0415 - loads torch

        return LocalSource(
            model,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            raw=raw,
            template_kwargs=template_kwargs,
        )
    if template_kwargs:
        raise ConfigError(
            "a server renders its chat template itself",
            where="--chat_template_kwargs",
            fix="Set its defaults there, or leave out --server.",
        )
    if raw:
        raise ConfigError(
            "a server applies its chat template to whatever it is asked",
            where="--raw",
            fix="Leave out --raw or --server.",
        )
    return ServerSource(model, server, api_key_env)


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
    made_by = {**source.identity(), **settings_of(sampling)}
    asked = ask(questions)
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
    _tell(every, say)
    return every


def settings_of(sampling: Sampling) -> dict[str, Any]:
    """What of the sampling answers depend on."""
    chosen: dict[str, Any] = {
        "max_new_tokens": sampling.max_new_tokens,
        "temperature": float(sampling.temperature),
    }
    if sampling.temperature > 0:
        chosen |= {"top_p": float(sampling.top_p), "seed": sampling.seed}
    return chosen


def ask(questions: Sequence[Question]) -> list[Asked]:
    """The questions with their keys."""
    seen: Counter[str] = Counter()
    asked = []
    for question in questions:
        said = [list(question.turns), question.system, [dict(turn) for turn in question.before]]
        content = json.dumps(said, ensure_ascii=True, sort_keys=True)
        repeat = seen[content]
        seen[content] += 1
        key = hashlib.sha256(f"{repeat}:{content}".encode()).hexdigest()[:32]
        asked.append(Asked(question, key, repeat))
    return asked


def _tell(answered: Sequence[Answered], say: Say) -> None:
    cut = sum(any(one.truncated) for one in answered)
    empty = sum(not all(one.turns) for one in answered)
    if cut:
        say(f"{cut} of {len(answered)} answers were cut off at the limit of tokens")
    if empty:
        say(f"{empty} of {len(answered)} answers are empty")


def _line(key: str, answered: Answered, made_by: Mapping[str, Any]) -> dict[str, Any]:
    question = answered.question
    line: dict[str, Any] = {"id": question.id}
    if question.category:
        line["category"] = question.category
    if len(question.turns) == 1:
        line |= {**answered.row(), "truncated": answered.truncated[0]}
    else:
        opening = question.conversation()[:-1]
        line |= {"before": opening} if opening else {}
        line |= {**answered.row(), "truncated": list(answered.truncated)}
    return {**line, "model": answered.model, "made_by": dict(made_by), "key": key}


def _check(line: dict[str, Any]) -> None:
    turns = line["answers"] if "answers" in line else [line["answer"]]
    if not all(isinstance(turn, str) for turn in [*turns, line["model"]]):
        raise TypeError(turns)
    if not isinstance(line["made_by"], dict):
        raise TypeError(line["made_by"])


def _answered(question: Question, line: Mapping[str, Any], model: str) -> Answered:
    turns = line["answers"] if "answers" in line else [line["answer"]]
    cut = line.get("truncated", False)
    truncated = cut if isinstance(cut, list) else [cut]
    return Answered(question, tuple(turns), model, tuple(map(bool, truncated)))


def _found(
    kept: Store, asked: Sequence[Asked], made_by: Mapping[str, Any], model: str
) -> dict[str, Answered]:
    """What is in the store already, which has to be of the same model and of these questions."""
    for number, line in enumerate(kept.lines.values(), 1):
        _require_same(line, made_by, f"{kept.path}:{number}")
    keys, held = {one.key for one in asked}, kept.lines.keys()
    others = len(held - keys)
    if others and keys - held:
        raise ConfigError(
            f"holds answers to {others} questions that are not among these {len(keys)}",
            where=str(kept.path),
            fix=ANOTHER,
        )
    return {
        one.key: _answered(one.question, kept.lines[one.key], model)
        for one in asked
        if one.key in held
    }


def _require_same(line: Mapping[str, Any], made_by: Mapping[str, Any], where: str) -> None:
    theirs = line["made_by"]
    for name in sorted({*theirs, *made_by}):
        if theirs.get(name) != made_by.get(name):
            raise ConfigError(
                f"was answered by {line['model']!r} with {name} {theirs.get(name)!r}, now it is "
                f"{made_by.get(name)!r}",
                where=where,
                fix=ANOTHER,
            )
