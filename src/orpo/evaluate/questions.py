"""Questions from a file: texts, conversations, or turns that are asked one after another."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from orpo.errors import DataError
from orpo.evaluate.settings import Sampling

if TYPE_CHECKING:
    from orpo.data.types import Message, Row

_T = TypeVar("_T")

_TABLES = {".json", ".jsonl", ".ndjson", ".csv", ".parquet", ".gz"}
_COLUMNS = ("prompt", "turns", "messages", "instruction")
_IDS = ("id", "question_id")
_HINT = "Give a column 'prompt' (text or messages), 'turns', 'messages' or 'instruction'."


@dataclass(frozen=True)
class Question:
    """What is asked, in one or more turns.

    Attributes:
        id: Names it in files and messages.
        turns: What the user says; the model answers each, and sees its earlier answers.
        system: System prompt, or nothing.
        category: Such as "math"; or nothing.
        reference: A right answer for each turn, where somebody wrote one.
        before: Turns of the conversation that were had before, {role, content} each.
    """

    id: str
    turns: tuple[str, ...]
    system: str = ""
    category: str = ""
    reference: tuple[str, ...] = ()
    before: tuple[Message, ...] = ()

    @property
    def is_text(self) -> bool:
        """Whether it is one text and nothing else."""
        return len(self.turns) == 1 and not self.system and not self.before

    def conversation(self, answers: Sequence[str] = ()) -> list[Message]:
        """The conversation up to the user's turn that follows the model's earlier answers."""
        opening: list[Message] = []
        if self.system:
            opening.append({"role": "system", "content": self.system})
        messages = [*opening, *self.before, {"role": "user", "content": self.turns[0]}]
        for answer, turn in zip(answers, self.turns[1:], strict=False):
            messages += [
                {"role": "assistant", "content": answer},
                {"role": "user", "content": turn},
            ]
        return messages


def read_questions(source: str | Path) -> list[Question]:
    """Questions from a file, or the text itself if it names no file.

    A .txt file has one question per line. Other files have a column `prompt` or `instruction` (a
    text or a list of {role, content} that ends with the user), `messages` (such a list) or `turns`
    (a list of texts that are asked one after another); and, where they are there, `id` or
    `question_id`, `system`, `category`, `reference` and, beside an instruction, `input`.

    Raises:
        DataError: The file is missing, empty, has no such column, or an id is there twice.
    """
    path, text = Path(source), str(source)
    looks_like_file = path.suffix.lower() in _TABLES | {".txt"} and "\n" not in text
    if looks_like_file and not path.is_file():
        raise DataError("no such file", where=text, fix="Give a file of prompts, or a text.")
    if not looks_like_file:
        return [Question("1", (text,))]
    if path.suffix.lower() == ".txt":
        questions = _lines(path)
    else:
        from orpo.data.sources import open_source  # noqa: PLC0415 - loads datasets

        questions = [_question(row) for row in open_source(text)]
    if not questions:
        raise DataError("holds no prompt", where=text, fix="Give at least one.")
    _require_distinct(questions, text)
    return questions


def spread(every: Sequence[_T], limit: int | None) -> list[_T]:
    """So many of them, from the beginning to the end; all of them without a limit."""
    count = len(every)
    if limit is None or limit >= count:
        return list(every)
    return [every[place * count // limit] for place in range(limit)]


def _lines(path: Path) -> list[Question]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"is not UTF-8 at byte {error.start}", where=str(path), fix="Convert it to UTF-8."
        ) from error
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from error
    return [Question(str(n), (line,)) for n, line in enumerate(lines, 1) if line.strip()]


def _question(row: Row) -> Question:
    if row.broken is not None:
        raise row.broken
    values = row.values
    system, turns, before = _content(values, row.where)
    if not all(turn.strip() for turn in turns):
        raise DataError("the prompt has no text", where=row.where, fix="Write something.")
    return Question(
        id=next((str(values[n]) for n in _IDS if values.get(n) is not None), str(row.index + 1)),
        turns=turns,
        system=system or _text(values, "system"),
        category=_text(values, "category"),
        reference=_texts(values.get("reference")),
        before=before,
    )


def _content(
    values: Mapping[str, Any], where: str
) -> tuple[str, tuple[str, ...], tuple[Mapping[str, Any], ...]]:
    """(system prompt, the user's turns, what was said before them)."""
    for name in _COLUMNS:
        value = values.get(name)
        if isinstance(value, str):
            extra = _text(values, "input") if name == "instruction" else ""
            return "", (f"{value}\n\n{extra}" if extra else value,), ()
        if not isinstance(value, list) or not value:
            continue
        if name == "turns" and all(isinstance(turn, str) for turn in value):
            return "", tuple(value), ()
        if all(isinstance(turn, dict) and "role" in turn for turn in value):
            return _conversation(value, f"{where}, field {name!r}")
    raise DataError("no prompt in this row", where=where, fix=_HINT)


def _conversation(
    messages: list[dict[str, Any]], where: str
) -> tuple[str, tuple[str, ...], tuple[Mapping[str, Any], ...]]:
    *before, last = messages
    if last["role"] != "user" or not isinstance(last.get("content"), str):
        raise DataError(
            f"the conversation ends with {last['role']!r}, not with a text of the user",
            where=where,
            fix="Leave out what stands after the user's last turn.",
        )
    opened = bool(before) and before[0]["role"] == "system"
    if opened and isinstance(before[0].get("content"), str):
        return before[0]["content"], (last["content"],), tuple(before[1:])
    return "", (last["content"],), tuple(before)


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return value if isinstance(value, str) and value.strip() else ""


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _require_distinct(questions: list[Question], where: str) -> None:
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise DataError(
                f"the id {question.id!r} is there twice", where=where, fix="Give each its own."
            )
        seen.add(question.id)


@dataclass(frozen=True)
class Answered:
    """A question with the answers of one model.

    Attributes:
        question: What was asked.
        turns: One answer for each of its turns, without white space around them.
        model: Who answered.
        truncated: For each answer, whether it was cut off before its end.
    """

    question: Question
    turns: tuple[str, ...]
    model: str
    truncated: tuple[bool, ...]

    def row(self) -> dict[str, Any]:
        """{"prompt", "answer"}; with several turns {"turns", "answers"}."""
        question = self.question
        if len(question.turns) > 1:
            return {"turns": list(question.turns), "answers": list(self.turns)}
        prompt = question.turns[0] if question.is_text else question.conversation()
        return {"prompt": prompt, "answer": self.turns[0]}


@dataclass(frozen=True)
class Asked:
    """A question among the others.

    Attributes:
        question: What is asked.
        key: Depends on what is asked and, for what is asked several times, on which time it is;
            not on the question's place or id. The random numbers of a drawn answer come from it.
        repeat: How often the same was asked before it.
        wanted: Whether it is still to be answered.
    """

    question: Question
    key: str
    repeat: int = 0
    wanted: bool = True


Answers = Generator[tuple[str, Answered], None, None]


class AnswerSource(Protocol):
    """Who answers, called `model` in files and on pages: a model here, or a server."""

    model: str

    def identity(self) -> dict[str, Any]:
        """What its answers depend on beside questions and sampling; no secrets."""

    def answers(self, asked: Sequence[Asked], sampling: Sampling) -> Answers:
        """(key, answer) of every wanted question as it is finished, in any order.

        Those that are not wanted are given too, so that a model here can put together the same
        batches when a broken run goes on as in a run that never broke.
        """

    def close(self) -> None:
        """Let go of memory."""
