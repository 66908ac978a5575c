"""What the judge reads: the protocol's prompts with questions, references and answers put in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from orpo.errors import DataError
from orpo.evaluate.answers import Question
from orpo.evaluate.mt_bench.data import Benchmark, JudgePrompt
from orpo.evaluate.mt_bench.protocol import WITH_REFERENCE

__all__ = ["judge_prompt", "user_prompt"]

_FIELD = re.compile(r"\{\{|\}\}|\{(\w+)\}")


def judge_prompt(benchmark: Benchmark, question: Question, turn: int) -> JudgePrompt:
    """Which prompt a question's turn is judged with.

    Turn 1 is judged alone, turn 2 with the conversation before it; mathematics, reasoning and
    coding with a reference answer.
    """
    math = "-math" if question.category in WITH_REFERENCE else ""
    return benchmark.prompts[f"single{math}-v1{'-multi-turn' if turn == 2 else ''}"]


def user_prompt(prompt: JudgePrompt, question: Question, answers: Sequence[str], turn: int) -> str:
    """The user message to the judge.

    Args:
        prompt: From `judge_prompt`.
        question: The question, with its reference answers.
        answers: The model's answers up to this turn.
        turn: 1 or 2.

    Raises:
        DataError: The prompt has a field that there is nothing for.
    """
    fields: dict[str, str] = {
        f"ref_answer_{number}": text for number, text in enumerate(question.reference, 1)
    }
    if turn == 1:
        fields |= {"question": question.turns[0], "answer": answers[0]}
    else:
        fields |= {f"question_{n}": text for n, text in enumerate(question.turns, 1)}
        fields |= {f"answer_{n}": text for n, text in enumerate(answers, 1)}
    return _filled(prompt, fields)


def _filled(prompt: JudgePrompt, fields: Mapping[str, str]) -> str:
    """In one pass: braces in an answer stay what they are."""

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return found[0][0]
        if name not in fields:
            raise DataError(
                f"a field {{{name}}} that nothing is known for",
                where=f"judge prompt '{prompt.name}'",
                fix="Give FastChat's judge_prompts.jsonl.",
            )
        return fields[name]

    return _FIELD.sub(value, prompt.template)
