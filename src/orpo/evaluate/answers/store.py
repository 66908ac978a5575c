"""Finished answers in a JSONL file: a process that is killed loses none of them.

    {"id": "81", "prompt": "...", "answer": "...", "truncated": false, "model": "run",
     "made_by": {"weights": "...", "max_new_tokens": 256, ...}, "key": "..."}

A question of several turns has `turns`, `answers` and `truncated` as lists instead of `prompt` and
`answer`. `made_by` is all that the answer depends on beside the question, and `key` the question.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orpo.errors import ConfigError, DataError
from orpo.evaluate.answers.types import Answered, Asked, Question
from orpo.runs import parse_json, write_text

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps two runs apart
    fcntl = None  # type: ignore[assignment]

__all__ = ["AnswerStore", "open_store"]

Say = Callable[[str], None]

_OURS = b'{"id": '
_FIX = "Give another file, or --overwrite."


class AnswerStore:
    """The answers in a file, read once; new ones are added as they come.

    Args:
        path: The file.
        made_by: What the answers depend on beside the questions; those in the file must agree.
        descriptor: The file, open for adding.
        lines: Key -> its line, in the order of the file.
    """

    def __init__(
        self, path: Path, made_by: Mapping[str, Any], descriptor: int, lines: dict[str, Any]
    ) -> None:
        self.path = path
        self._made_by = made_by
        self._descriptor = descriptor
        self._lines = lines

    def answers(self, asked: Sequence[Asked], model: str) -> dict[str, Answered]:
        """Key -> answer of what is asked and in the file already.

        Raises:
            ConfigError: The file holds answers to other questions, and lacks some of these.
        """
        keys = {one.key for one in asked}
        others = len(self._lines.keys() - keys)
        if others and keys - self._lines.keys():
            raise ConfigError(
                f"holds answers to {others} questions that are not among these {len(keys)}",
                where=str(self.path),
                fix=_FIX,
            )
        return {
            one.key: _answered(one.question, self._lines[one.key], model)
            for one in asked
            if one.key in self._lines
        }

    def add(self, key: str, answered: Answered) -> None:
        """Keep an answer: once this returns, no end of the process can lose it."""
        line = _line(key, answered, self._made_by)
        self._lines[key] = line
        _write(self._descriptor, _text(line))

    def put_in_order(self, asked: Sequence[Asked]) -> None:
        """Bring the lines into the order of the questions, those to other questions at the end."""
        order = [one.key for one in asked if one.key in self._lines]
        order += [key for key in self._lines if key not in set(order)]
        if order != list(self._lines):
            self._lines = {key: self._lines[key] for key in order}
            write_text(self.path, "".join(_text(line) for line in self._lines.values()))


@contextlib.contextmanager
def open_store(path: Path, made_by: Mapping[str, Any], say: Say) -> Iterator[AnswerStore]:
    """The answers in a file, for this process alone as long as it is open.

    Args:
        path: The file; made with its folder if it is not there.
        made_by: What the answers depend on beside the questions.
        say: Told if the last line was cut off by the end of a process; it is dropped.

    Raises:
        ConfigError: The file cannot be written, another process writes it, or its answers depend
            on something else.
        DataError: A line is no answer.
    """
    descriptor = _open(path)
    try:
        _lock(descriptor, path)
        lines = _read(path, descriptor, say)
        for number, line in enumerate(lines.values(), 1):
            _require_same(line, made_by, f"{path}:{number}")
        yield AnswerStore(path, made_by, descriptor, lines)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise ConfigError(
            "is a folder, not a file"
            if path.is_dir()
            else f"cannot be written to ({error.strerror})",
            where=str(path),
            fix="Give the name of a JSONL file.",
        ) from error


def _lock(descriptor: int, path: Path) -> None:
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            "another process is writing answers here",
            where=str(path),
            fix="Wait for it, or give another file.",
        ) from None
    except OSError:  # this disk keeps no locks
        return


def _read(path: Path, descriptor: int, say: Say) -> dict[str, Any]:
    """Key -> line; what a killed process left of its last line is taken off the file."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    lines: dict[str, Any] = {}
    for number, text in enumerate(content[:whole].split(b"\n"), 1):
        if text.strip():
            line = _parse(text, f"{path}:{number}")
            lines.setdefault(line["key"], line)
    rest = content[whole:]
    if rest.strip():
        with contextlib.suppress(DataError):  # an editor may have taken off the last line break
            line = _parse(rest, str(path))
            lines.setdefault(line["key"], line)
            _write(descriptor, "\n")
            return lines
        if not (rest.startswith(_OURS) or _OURS.startswith(rest)):
            raise DataError("is no answer that was kept here", where=str(path), fix=_FIX)
        say(f"{path}: the last line was cut off; it is dropped, and its question asked again")
    os.ftruncate(descriptor, whole)
    return lines


def _parse(text: bytes, where: str) -> dict[str, Any]:
    try:
        line = parse_json(text)
        turns = line["answers"] if "answers" in line else [line["answer"]]
        if not all(isinstance(turn, str) for turn in [*turns, line["key"], line["model"]]):
            raise TypeError(where)
        if not isinstance(line["made_by"], dict):
            raise TypeError(where)
    except (ValueError, KeyError, TypeError):
        raise DataError("is no answer that was kept here", where=where, fix=_FIX) from None
    result: dict[str, Any] = line
    return result


def _require_same(line: Mapping[str, Any], made_by: Mapping[str, Any], where: str) -> None:
    theirs = line["made_by"]
    for name in sorted({*theirs, *made_by}):
        if theirs.get(name) != made_by.get(name):
            raise ConfigError(
                f"was answered by {line['model']!r} with {name} {theirs.get(name)!r}, now it is "
                f"{made_by.get(name)!r}",
                where=where,
                fix=_FIX,
            )


def _answered(question: Question, line: Mapping[str, Any], model: str) -> Answered:
    turns = line["answers"] if "answers" in line else [line["answer"]]
    cut = line.get("truncated", False)
    truncated = cut if isinstance(cut, list) else [cut]
    return Answered(question, tuple(turns), model, tuple(map(bool, truncated)))


def _line(key: str, answered: Answered, made_by: Mapping[str, Any]) -> dict[str, Any]:
    question = answered.question
    line: dict[str, Any] = {"id": question.id}
    if question.category:
        line["category"] = question.category
    if len(question.turns) == 1:
        prompt = question.turns[0] if question.is_text else question.conversation()
        line |= {"prompt": prompt, "answer": answered.turns[0], "truncated": answered.truncated[0]}
    else:
        opening = question.conversation()[:-1]
        line |= {"before": opening} if opening else {}
        line |= {
            "turns": list(question.turns),
            "answers": list(answered.turns),
            "truncated": list(answered.truncated),
        }
    return {**line, "model": answered.model, "made_by": dict(made_by), "key": key}


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


def _write(descriptor: int, text: str) -> None:
    left = text.encode("utf-8", errors="surrogatepass")
    while left:
        left = left[os.write(descriptor, left) :]
