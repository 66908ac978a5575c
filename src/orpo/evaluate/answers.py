"""Answers to questions: by a model here or behind a server, kept so that nothing is asked twice.

A line of the file that keeps them:

    {"id": "81", "prompt": "...", "answer": "...", "truncated": false, "model": "run",
     "made_by": {"weights": "...", "max_new_tokens": 256, ...}, "key": "..."}

A question of several turns has `turns`, `answers` and `truncated` as lists instead of `prompt` and
`answer`. `made_by` is all that the answer depends on beside the question, and `key` the question.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from orpo.errors import ConfigError, DataError
from orpo.evaluate.asking import endpoint_at
from orpo.evaluate.questions import Answered, AnswerSource, Asked, Question, keyed
from orpo.evaluate.settings import Sampling
from orpo.runs.files import ensure_reachable
from orpo.runs.reading import parse_json
from orpo.runs.writing import write_text
from orpo.terminal import Say, silent

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps two runs apart
    fcntl = None  # type: ignore[assignment]

ANOTHER = "Give another file, or --overwrite."
_NOT_OURS = "is no answer that was kept here"

Line: TypeAlias = dict[str, Any]
Check: TypeAlias = Callable[[Line], object]
"""Raises a ValueError, KeyError or TypeError of what is no line of the store."""


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


class Store:
    """Lines by their keys, in the order of the file; in memory alone without a file."""

    def __init__(self, path: Path | None = None, descriptor: int = -1) -> None:
        self.path = path
        self.lines: dict[str, Line] = {}
        self._descriptor, self._lock = descriptor, threading.Lock()

    def add(self, line: Line) -> None:
        """Keep a line: once this returns, no end of the process can lose it."""
        with self._lock:
            self.lines[line["key"]] = line
            if self.path is not None:
                self._write(_text(line))

    def put_in_order(self, keys: Sequence[str]) -> None:
        """Bring the lines into the order of some keys, others at the end."""
        order = [key for key in dict.fromkeys([*keys, *self.lines]) if key in self.lines]
        if self.path is not None and order != list(self.lines):
            self.lines = {key: self.lines[key] for key in order}
            write_text(self.path, "".join(map(_text, self.lines.values())))

    def read(self, path: Path, check: Check, begins: str, strict: bool, say: Say) -> None:
        """Take in the file; what a killed process left of its last line is taken off it."""
        content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        for number, text in enumerate(content[:end].split(b"\n"), 1):
            if text.strip() and not self._take(text, check) and strict:
                raise DataError(_NOT_OURS, where=f"{path}:{number}", fix=ANOTHER)
        rest, ours = content[end:], begins.encode()
        if rest.strip():
            if self._take(rest, check):  # an editor may have taken off the last line break
                self._write("\n")
                return
            if strict and not (rest.startswith(ours) or ours.startswith(rest)):
                raise DataError(_NOT_OURS, where=str(path), fix=ANOTHER)
            say(f"{path}: the last line was cut off; it is dropped, and its question asked again")
        os.ftruncate(self._descriptor, end)

    def _take(self, text: bytes, check: Check) -> bool:
        """Whether a line is one of ours; of those with one key the first counts."""
        try:
            line = parse_json(text)
            if not (isinstance(line, dict) and isinstance(line["key"], str)):
                return False
            check(line)
        except (ValueError, KeyError, TypeError):
            return False
        self.lines.setdefault(line["key"], line)
        return True

    def _write(self, text: str) -> None:
        left = text.encode("utf-8", errors="surrogatepass")
        while left:
            left = left[os.write(self._descriptor, left) :]


@contextmanager
def open_store(
    path: Path | None, check: Check, *, begins: str, strict: bool, say: Say
) -> Iterator[Store]:
    """A file's lines, for this process alone as long as it is open; it is made if need be.

    `begins` is how each line begins, to tell what a killed process left from somebody's own file.
    A broken line is refused if `strict`; else it is passed over, and what it held asked again.
    """
    if path is None:
        yield Store()
        return
    descriptor = _open(path)
    try:
        store = Store(path, descriptor)
        store.read(path, check, begins, strict, say)
        yield store
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        why = f"cannot be written to ({error.strerror})"
        what, fix = "is a folder, not a file" if path.is_dir() else why, "Name a JSONL file."
        raise ConfigError(what, where=str(path), fix=fix) from error
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        what, fix = "another process is writing answers here", "Wait for it, or give another file."
        raise ConfigError(what, where=str(path), fix=fix) from None
    except OSError:  # this disk keeps no locks
        pass
    return descriptor


def _text(line: Line) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"
