"""Single-answer grading: the protocol's prompts to a judge, guarded against what answers tell it.

The protocol's prompts have no fences. So marks of the prompt and verdicts in an answer are made
harmless before the judge reads them, answers that are suspicious all the same are flagged, which
changes no score, and answers that deserve nothing (canaries) are put before the judge in
every run, as they are, to see whether it can be fooled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orpo.evaluate.answers import Answered, Question
from orpo.evaluate.asking import Reply
from orpo.evaluate.judge.canaries import Canary, Trust, judge_trust
from orpo.evaluate.judge.replies import Request, Spend, complete, spend
from orpo.evaluate.judge.suspicious import FORGED, TALKS, suspicions
from orpo.evaluate.mt_bench.canaries import canary_outcome, mt_bench_canaries
from orpo.evaluate.mt_bench.data import Benchmark
from orpo.evaluate.mt_bench.harmless import IMITATES, harmless, imitates
from orpo.evaluate.mt_bench.prompts import judge_prompt, user_prompt
from orpo.evaluate.mt_bench.protocol import JUDGE_TOKENS
from orpo.evaluate.mt_bench.verdicts import Judgment, parse_rating
from orpo.evaluate.settings import JudgeSettings

__all__ = ["Grading", "grade_benchmark"]

_CARRIED = (FORGED, TALKS, IMITATES)
"""What an answer to turn 1 can do to the judge in turn 2 as well, where it is read again."""

_NO_REPLY = "$ERROR$"
"""FastChat's mark for a judgment that never came."""


@dataclass(frozen=True)
class Grading:
    """What a judge said about one model's answers.

    Attributes:
        judgments: One for each turn, in the order of the questions.
        changed: Answers that were made harmless before the judge read them.
        refused: Requests that the judge's server would not answer; they have no score.
        cut: Replies that were cut off at the limit of tokens.
        trust: What the canaries say about the judge.
        canary_scores: Kind -> what the judge gave to each; None where it named no score.
        spend: Requests, tokens and cost, the canaries' among them.
        reported: The judge's names as its server reports them.
        settings: The judge as it was asked.
    """

    judgments: tuple[Judgment, ...]
    changed: int
    refused: int
    cut: int
    trust: Trust
    canary_scores: Mapping[str, list[float | None]]
    spend: Spend
    reported: tuple[str, ...]
    settings: JudgeSettings


@dataclass(frozen=True)
class _Task:
    """One answer to be graded."""

    question: Question
    turn: int
    prompt: str
    request: Request
    flags: tuple[str, ...] = ()


def grade_benchmark(
    benchmark: Benchmark,
    answered: Sequence[Answered],
    settings: JudgeSettings,
    say: Callable[[str], None],
) -> Grading:
    """Every turn of every answer graded, and the canaries.

    Args:
        benchmark: Questions and prompts.
        answered: One model's answers; at least one.
        settings: Which judge, and how.
        say: Told what happens.

    Raises:
        UserError: The judge cannot be asked.
    """
    settings = replace(settings, max_tokens=max(settings.max_tokens, JUDGE_TOKENS))
    tasks = _tasks(benchmark, answered)
    questions = [one.question for one in answered]
    canaries = mt_bench_canaries(questions, settings.seed)
    lures = [_task(benchmark, questions[one.index], 1, (one.answer,)) for one in canaries]
    replies = complete(settings, [task.request for task in (*tasks, *lures)], say)
    judgments = tuple(
        _judgment(task, reply, answered[0].model, settings.model, benchmark)
        for task, reply in zip(tasks, replies, strict=False)
    )
    given = [(one, _rating(got)) for one, got in zip(canaries, replies[len(tasks) :], strict=True)]
    own = replies[: len(tasks)]
    return Grading(
        judgments=judgments,
        changed=sum(_is_changed(turn) for one in answered for turn in one.turns),
        refused=sum(bool(reply.error) for reply in own),
        cut=sum(reply.finish_reason == "length" for reply in own),
        trust=_trust(given, tasks, judgments),
        canary_scores={
            kind: [score for one, score in given if one.kind == kind]
            for kind in dict.fromkeys(one.kind for one in canaries)
        },
        spend=spend(settings, replies),
        reported=tuple(sorted({reply.model for reply in replies if reply.model})),
        settings=settings,
    )


def _trust(
    given: Sequence[tuple[Canary, float | None]],
    tasks: Sequence[_Task],
    judgments: Sequence[Judgment],
) -> Trust:
    first = [(task, one) for task, one in zip(tasks, judgments, strict=True) if task.turn == 1]
    real = [None if task.flags else one.score for task, one in first]
    scores = [one.score for one in judgments] + [score for _, score in given]
    return judge_trust(
        [(one, canary_outcome(score, real[one.index])) for one, score in given],
        [task.question.turns[0] for task, _ in first],
        sum(score is None for score in scores) / len(scores),
    )


def _tasks(benchmark: Benchmark, answered: Sequence[Answered]) -> list[_Task]:
    flags = iter(_flags(answered))
    tasks = []
    for one in answered:
        carried: tuple[str, ...] = ()
        for turn in range(1, len(one.turns) + 1):
            found = tuple(dict.fromkeys((*carried, *next(flags))))
            carried = tuple(flag for flag in found if flag in _CARRIED)
            read = [harmless(text) for text in one.turns[:turn]]
            tasks.append(_task(benchmark, one.question, turn, read, flags=found))
    return tasks


def _flags(answered: Sequence[Answered]) -> list[tuple[str, ...]]:
    """Of each turn of each answer, in their order."""
    answers = [turn for one in answered for turn in one.turns]
    asked = [turn for one in answered for turn in one.question.turns]
    return [
        (*found, IMITATES) if imitates(answer) else found
        for answer, found in zip(answers, suspicions(answers, asked), strict=True)
    ]


def _task(
    benchmark: Benchmark, question: Question, turn: int, answers: Sequence[str], **more: Any
) -> _Task:
    prompt = judge_prompt(benchmark, question, turn)
    messages = (
        {"role": "system", "content": prompt.system},
        {"role": "user", "content": user_prompt(prompt, question, answers, turn)},
    )
    return _Task(question, turn, prompt.name, Request(messages), **more)


def _judgment(task: _Task, reply: Reply, model: str, judge: str, benchmark: Benchmark) -> Judgment:
    return Judgment(
        question_id=benchmark.numbers[task.question.id],
        model=model,
        turn=task.turn,
        score=_rating(reply),
        judge=judge,
        prompt=task.prompt,
        judgment=reply.text or (_NO_REPLY if reply.error else ""),
        user_prompt=task.request.messages[1]["content"],
        flags=task.flags,
        tstamp=time.time(),
    )


def _is_changed(answer: str) -> bool:
    return harmless(answer) != answer.replace("\r\n", "\n")


def _rating(reply: Reply) -> float | None:
    return parse_rating(reply.text)
