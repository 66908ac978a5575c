"""The nouns of answering: a question, its answer, and who answers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from orpo.data.types import Message
from orpo.evaluate.generation import Sampling

__all__ = ["AnswerSource", "Answered", "Asked", "Question", "ask"]


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
        """The conversation up to the user's turn that follows these answers.

        Args:
            answers: The model's earlier answers; turns as many and one more are in it.
        """
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


class AnswerSource(Protocol):
    """Who answers: a model here, or a server.

    Attributes:
        model: What it is called in files and on pages.
    """

    model: str

    def identity(self) -> dict[str, Any]:
        """What its answers depend on beside questions and sampling; no secrets."""

    def answers(self, asked: Sequence[Asked], sampling: Sampling) -> Iterator[tuple[str, Answered]]:
        """(key, answer) of every wanted question as it is finished, in any order.

        Those that are not wanted are given too, so that a model here can put together the same
        batches when a broken run goes on as in a run that never broke.

        Raises:
            UserError: A question cannot be asked, or nobody answers.
        """

    def close(self) -> None:
        """Let go of memory and connections."""


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
