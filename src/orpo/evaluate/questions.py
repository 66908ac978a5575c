"""Questions from a file, answers to them, and what a checker says of answers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from orpo.errors import DataError
from orpo.evaluate.settings import Sampling
from orpo.runs.reading import read_text

if TYPE_CHECKING:
    from orpo.data.types import Message, Row

Grader: TypeAlias = Callable[["Row", str], "Grade"]
"""Checks an answer to the prompt of a held-out row."""
_T = TypeVar("_T")

_TABLES = {".json", ".jsonl", ".ndjson", ".csv", ".parquet", ".gz"}
_COLUMNS = ("prompt", "turns", "messages", "instruction")
_HINT = "Give a column 'prompt' (text or messages), 'turns', 'messages' or 'instruction'."


@dataclass(frozen=True)
class Question:
    """What is asked, in one or more turns."""

    id: str  # names it in files and messages
    turns: tuple[str, ...]  # the model answers each, and sees its earlier answers
    system: str = ""
    category: str = ""  # such as "math"
    reference: tuple[str, ...] = ()  # a right answer for each turn, where somebody wrote one
    before: tuple[Message, ...] = ()  # turns of the conversation that were had before

    def conversation(self, answers: Sequence[str] = ()) -> list[Message]:
        """The conversation up to the user's turn that follows the model's earlier answers."""
        opening: list[Message] = []
        if self.system:
            opening.append({"role": "system", "content": self.system})
        messages = [*opening, *self.before, {"role": "user", "content": self.turns[0]}]
        for answer, turn in zip(answers, self.turns[1:], strict=False):
            messages.append({"role": "assistant", "content": answer})
            messages.append({"role": "user", "content": turn})
        return messages

    @property
    def is_text(self) -> bool:
        """Whether it is one text and nothing else."""
        return len(self.turns) == 1 and not self.system and not self.before


@dataclass(frozen=True)
class Answered:
    """A question with the answers of one model, one for each turn."""

    question: Question
    turns: tuple[str, ...]  # without white space around them
    model: str
    truncated: tuple[bool, ...]  # whether each was cut off before its end

    def row(self) -> dict[str, Any]:
        """{"prompt", "answer"}; with several turns {"turns", "answers"}."""
        question = self.question
        if len(question.turns) > 1:
            return {"turns": list(question.turns), "answers": list(self.turns)}
        prompt = question.turns[0] if question.is_text else question.conversation()
        return {"prompt": prompt, "answer": self.turns[0]}


@dataclass(frozen=True)
class Asked:
    """A question among the others."""

    question: Question
    key: str  # of what is asked and which time it is; random numbers of a drawn answer come from it
    repeat: int = 0  # how often the same was asked before it
    wanted: bool = True  # it is still to be answered


Answers = Generator[tuple[str, Answered], None, None]


class AnswerSource(Protocol):
    """Who answers, called `model` in files and on pages: a model here, or a server."""

    model: str

    def identity(self) -> dict[str, Any]:
        """What its answers depend on beside questions and sampling; no secrets."""

    def answers(self, asked: Sequence[Asked], sampling: Sampling) -> Answers:
        """(key, answer) of every wanted question as it is finished, in any order.

        The others are given too: the batches of a broken run that goes on are those of a whole one.
        """

    def close(self) -> None:
        """Let go of memory."""


def keyed(questions: Sequence[Question]) -> list[Asked]:
    """The questions with their keys."""
    seen: Counter[str] = Counter()
    asked = []
    for question in questions:
        said = [list(question.turns), question.system, [dict(turn) for turn in question.before]]
        content = json.dumps(said, ensure_ascii=True, sort_keys=True)
        key = hashlib.sha256(f"{seen[content]}:{content}".encode()).hexdigest()[:32]
        asked.append(Asked(question, key, seen[content]))
        seen[content] += 1
    return asked


def spread(every: Sequence[_T], limit: int | None) -> list[_T]:
    """So many of them, from the beginning to the end; all of them without a limit."""
    count = len(every)
    if limit is None or limit >= count:
        return list(every)
    return [every[place * count // limit] for place in range(limit)]


def read_questions(source: str | Path) -> list[Question]:
    """Questions from a file, or the text itself if it names no file.

    A .txt file has one question per line. Other files have a column `prompt` or `instruction` (a
    text or a list of {role, content} that ends with the user), `messages` (such a list) or `turns`
    (a list of texts that are asked one after another); and, where they are there, `id` or
    `question_id`, `system`, `category`, `reference` and, beside an instruction, `input`.
    """
    path, text = Path(source), str(source)
    if path.suffix.lower() not in _TABLES | {".txt"} or "\n" in text:
        return [Question("1", (text,))]
    if not path.is_file():
        raise DataError("no such file", where=text, fix="Give a file of prompts, or a text.")
    if path.suffix.lower() == ".txt":
        lines = enumerate(read_text(path).splitlines(), 1)
        questions = [Question(str(n), (line,)) for n, line in lines if line.strip()]
    else:
        from orpo.data.sources import open_source  # noqa: PLC0415 - loads datasets

        questions = [_question(row) for row in open_source(text)]
    if not questions:
        raise DataError("holds no prompt", where=text, fix="Give at least one.")
    name, often = Counter(question.id for question in questions).most_common(1)[0]
    if often > 1:
        raise DataError(f"the id {name!r} is there twice", where=text, fix="Give each its own.")
    return questions


def _question(row: Row) -> Question:
    if row.broken is not None:
        raise row.broken
    values = row.values
    system, turns, before = _content(values, row.where)
    if not all(turn.strip() for turn in turns):
        raise DataError("the prompt has no text", where=row.where, fix="Write something.")
    names = (values.get("id"), values.get("question_id"), row.index + 1)
    given = values.get("reference")
    reference = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    return Question(
        id=next(str(name) for name in names if name is not None),
        turns=turns,
        system=system or _text(values, "system"),
        category=_text(values, "category"),
        reference=tuple(map(str, reference)),
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
            *before, last = value
            if last["role"] != "user" or not isinstance(last.get("content"), str):
                raise DataError(
                    f"the conversation ends with {last['role']!r}, not with a text of the user",
                    where=f"{where}, field {name!r}",
                    fix="Leave out what stands after the user's last turn.",
                )
            opened = bool(before) and before[0]["role"] == "system"
            if opened and isinstance(before[0].get("content"), str):
                return before[0]["content"], (last["content"],), tuple(before[1:])
            return "", (last["content"],), tuple(before)
    raise DataError("no prompt in this row", where=where, fix=_HINT)


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return value if isinstance(value, str) and value.strip() else ""


@dataclass(frozen=True)
class Grade:
    """A checker's word on one answer.

    Attributes:
        correct: Whether the answer is right, in the asked form.
        reason: In words: "correct", "wrong result", "refused", ...
        groups: What the prompt is, such as {"language": "en", "task": "add"}.
    """

    correct: bool
    reason: str
    groups: Mapping[str, str] = field(default_factory=dict)


def grade_summary(grades: Sequence[Grade]) -> dict[str, Any]:
    """The share of correct answers over all prompts and by each group.

    Returns:
        correct_answers, prompts, by_verdict {reason: {"answers"}}, and for each kind of group
        by_<kind> {name: {"correct_answers", "n"}}.
    """
    members: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for grade in grades:
        for kind, name in grade.groups.items():
            members[kind][name].append(grade.correct)
    reasons = Counter(grade.reason for grade in grades).most_common()
    summary: dict[str, Any] = {
        "correct_answers": sum(grade.correct for grade in grades) / max(len(grades), 1),
        "prompts": len(grades),
        "by_verdict": {reason: {"answers": count} for reason, count in reasons},
    }
    for kind, groups in members.items():
        summary[f"by_{kind}"] = {
            name: {"correct_answers": sum(correct) / len(correct), "n": len(correct)}
            for name, correct in sorted(groups.items())
        }
    return summary
