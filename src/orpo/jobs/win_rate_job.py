"""Two models on prompts of one's own: answers, verdicts in both orders, win rates, the folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo.errors import DataError
from orpo.evaluate import Sampling
from orpo.evaluate.answers import Answered, Question, answer_questions, open_source_of_answers
from orpo.evaluate.judge.fences import conversation
from orpo.evaluate.judge.pairwise import Comparison, compare_pairs
from orpo.evaluate.questions import read_questions, spread
from orpo.evaluate.settings import JudgeSettings
from orpo.evaluate.win_rates import JudgedPair, rated, summary, suspicious
from orpo.jobs.evaluation_folder import ANSWERS, claim_folder
from orpo.jobs.judged_folder import (
    Answering,
    about_the_judge,
    finish,
    named,
)

__all__ = ["WinRateJob", "run_win_rate"]

Say = Callable[[str], None]

BASELINE_ANSWERS = "answers-baseline.jsonl"


@dataclass(frozen=True)
class WinRateJob:
    """Which model is compared with which, on what, and by whom it is judged.

    Attributes:
        model: A model folder, an adapter folder or a Hub id; with a server, its name there.
        baseline: The same of the model that it is compared with, such as the one before training.
        prompts: A file of prompts.
        judge: Who judges.
        output_dir: Where everything goes; a broken run goes on from it.
        answering: Where the model answers.
        baseline_answering: Where the baseline answers.
        sampling: How answers are drawn, the same for both.
        limit: So many prompts, spread over all of them.
        overwrite: Replace what other settings have left in the folder.
    """

    model: str
    baseline: str
    prompts: str
    judge: JudgeSettings
    output_dir: Path = Path("orpo-eval-win-rate")
    answering: Answering = Answering()
    baseline_answering: Answering = Answering()
    sampling: Sampling = Sampling(max_new_tokens=1024)
    limit: int | None = None
    overwrite: bool = False

    @property
    def called(self) -> tuple[str, str]:
        """What the model and the baseline are called; their places where the names are equal."""
        names = named(self.model), named(self.baseline)
        return names if names[0] != names[1] else (self.model, self.baseline)

    def settings(self) -> dict[str, Any]:
        """What the result depends on; no key, no cache."""
        found = {
            "model": self.model,
            "baseline": self.baseline,
            "prompts": self.prompts,
            "limit": self.limit,
            "server": self.answering.server,
            "baseline_server": self.baseline_answering.server,
            "dtype": self.answering.dtype,
            **{k: v for k, v in vars(self.sampling).items() if k != "batch_size"},
            "judge": self.judge.model,
            "judge_temperature": self.judge.temperature,
            "judge_seed": self.judge.seed,
        }
        return {name: value for name, value in found.items() if value is not None}


def run_win_rate(job: WinRateJob, *, say: Say) -> dict[str, Any]:
    """Let both models answer, let the judge compare, and write everything into the folder.

    Args:
        job: What is compared.
        say: Told, line by line, what happens.

    Returns:
        What stands in evaluation.json, see `docs/evaluation/alpaca.md`.

    Raises:
        UserError: Something given cannot be used; nothing that was asked for is lost.
    """
    questions = _questions(job)
    claim_folder(
        job.output_dir,
        job.settings(),
        (ANSWERS, BASELINE_ANSWERS),
        overwrite=job.overwrite,
    )
    before = _answers(job, job.baseline, job.baseline_answering, questions, BASELINE_ANSWERS, say)
    after = _answers(job, job.model, job.answering, questions, ANSWERS, say)
    items = [
        Comparison(
            question.id,
            question.turns[0] if question.is_text else question.conversation(),
            first.turns[0],
            second.turns[0],
            group=_text(question),
        )
        for question, first, second in zip(questions, before, after, strict=True)
    ]
    result = compare_pairs(job.judge, items, say)
    pairs = [
        JudgedPair.of(
            item, verdict, index=item.group, prompt=item.group, category=question.category
        )
        for question, item, verdict in zip(questions, items, result.items, strict=True)
    ]
    evaluation = {
        "kind": "win-rate",
        "model": job.called[0],
        "baseline": job.called[1],
        "settings": job.settings(),
        "account": _account(questions, before, after),
        "win_rate": rated(pairs).as_dict(),
        "suspicious": suspicious(pairs),
        **about_the_judge(result),
        **summary(pairs),
    }
    return finish(job.output_dir, evaluation, pairs)


def _questions(job: WinRateJob) -> list[Question]:
    every = read_questions(job.prompts)
    for question in every:
        if len(question.turns) > 1:
            raise DataError(
                f"question {question.id} has {len(question.turns)} turns, and the models' first "
                "answers would part the ways",
                where=job.prompts,
                fix="Give prompts of one turn; turns before it can stand in `messages`.",
            )
    return spread(every, job.limit)


def _answers(
    job: WinRateJob,
    model: str,
    answering: Answering,
    questions: Sequence[Question],
    store: str,
    say: Say,
) -> list[Answered]:
    say(f"{named(model)} answers {len(questions)} prompts")
    source = open_source_of_answers(
        model,
        server=answering.server,
        api_key_env=answering.key_env,
        dtype=answering.dtype,
        trust_remote_code=answering.trust_remote_code,
    )
    try:
        return answer_questions(source, questions, job.sampling, job.output_dir / store, say)
    finally:
        source.close()


def _text(question: Question) -> str:
    return question.turns[0] if question.is_text else conversation(question.conversation())


def _account(
    questions: Sequence[Question], before: Sequence[Answered], after: Sequence[Answered]
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "prompts": len(questions),
        "different_prompts": len({_text(question) for question in questions}),
    }
    for name, answers in (("baseline", before), ("model", after)):
        found[f"{name}_truncated_answers"] = sum(any(one.truncated) for one in answers)
        found[f"{name}_empty_answers"] = sum(not one.turns[0].strip() for one in answers)
    found["identical_answers"] = sum(
        first.turns == second.turns for first, second in zip(before, after, strict=True)
    )
    return found
