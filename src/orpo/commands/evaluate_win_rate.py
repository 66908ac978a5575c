"""`orpo evaluate win-rate`: two models on prompts of one's own, judged in both orders."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo.commands.console import say
from orpo.commands.evaluate import (
    ANSWERS,
    JUDGMENTS,
    Answering,
    claim,
    finish,
    judge_group,
    named,
    show_rates,
)
from orpo.errors import ConfigError, DataError
from orpo.evaluate.settings import JudgeSettings, Sampling, positive
from orpo.options import argument, group, option

if TYPE_CHECKING:
    from orpo.evaluate.answers import Answered
    from orpo.evaluate.judge.pairwise import Comparison
    from orpo.evaluate.questions import Question

EXAMPLES = """\
examples:
  orpo evaluate win-rate run --baseline base-model --prompts prompts.jsonl --judge gpt-4o
  orpo evaluate win-rate run --baseline base-model --prompts prompts.txt --limit 100 \\
      --judge judge --judge_url http://127.0.0.1:8000/v1
  orpo evaluate win-rate tuned --server http://127.0.0.1:8001/v1 \\
      --baseline base --baseline_server http://127.0.0.1:8002/v1 --prompts p.jsonl --judge gpt-4o

Both models answer each prompt, the judge compares in both orders. 50 % is no difference. The same
command goes on where it broke off."""

BASELINE_ANSWERS = "answers-baseline.jsonl"


@dataclass(frozen=True)
class Options:
    """Which model is compared with which, on what, and by whom it is judged."""

    model: str = argument("MODEL", help="model folder, adapter folder or Hub id")
    baseline: str = option(metavar="MODEL", help="compare with this, such as the base")
    prompts: str = option(metavar="FILE", help="prompts, as for `orpo generate`")
    output_dir: Path = option(Path("orpo-eval-win-rate"), help="default orpo-eval-win-rate")
    overwrite: bool = option(False, help="replace what other settings left there")
    limit: int | None = option(
        None, metavar="N", parse=positive, help="only N prompts, spread over all of them"
    )
    baseline_server: str | None = option(None, metavar="URL", help="one for the baseline")
    answering: Answering = group(Answering, "asking the model")
    sampling: Sampling = group(Sampling, "how both answer", max_new_tokens=1024)
    judge: JudgeSettings | None = judge_group()

    def settings(self, judge: JudgeSettings) -> dict[str, Any]:
        """What the result depends on; no key, no cache."""
        found = {
            "model": self.model,
            "baseline": self.baseline,
            "prompts": self.prompts,
            "limit": self.limit,
            "server": self.answering.server,
            "baseline_server": self.baseline_server,
            "dtype": self.answering.dtype,
            **{k: v for k, v in vars(self.sampling).items() if k != "batch_size"},
            "judge": judge.model,
            "judge_temperature": judge.temperature,
            "judge_seed": judge.seed,
        }
        return {name: value for name, value in found.items() if value is not None}


def run(options: Options) -> dict[str, Any]:
    """Let both models answer and the judge compare; show the win rates."""
    from orpo.evaluate.judge.fences import conversation  # noqa: PLC0415
    from orpo.evaluate.results import WinRateResult  # noqa: PLC0415
    from orpo.evaluate.win_rates.judged import (  # noqa: PLC0415
        LengthControl,
        judge_pairs,
        rates_of,
        write_judgments,
    )
    from orpo.train.recorder import versions  # noqa: PLC0415 - loads torch

    folder = options.output_dir
    if options.judge is None:
        raise ConfigError("is needed", where="--judge", fix="Name a judge at its server.")
    judge = options.judge.kept_in(folder)
    options.sampling.checked()
    questions = _questions(options)
    settings = options.settings(judge)
    claim(folder, settings, (ANSWERS, BASELINE_ANSWERS), overwrite=options.overwrite)
    theirs = replace(options.answering, server=options.baseline_server)
    before = _answers(options, options.baseline, theirs, questions, BASELINE_ANSWERS)
    after = _answers(options, options.model, options.answering, questions, ANSWERS)
    texts = [q.turns[0] if q.is_text else conversation(q.conversation()) for q in questions]
    items = _compared(questions, texts, before, after)
    known = [(t, t, q.category) for t, q in zip(texts, questions, strict=True)]
    pairs, judged = judge_pairs(judge, items, known, say)
    names = named(options.model), named(options.baseline)
    if names[0] == names[1]:
        names = options.model, options.baseline
    write_judgments(folder / JUDGMENTS, pairs)
    result = WinRateResult(
        model=names[0],
        baseline=names[1],
        settings=settings,
        account=_account(texts, before, after),
        versions=versions("openai", "scikit-learn"),
        rates=rates_of(pairs, LengthControl()),
        judged=judged,
    )
    found, page = finish(result, folder)
    show_rates(page, folder)
    return found


def _questions(options: Options) -> list[Question]:
    from orpo.evaluate.questions import read_questions, spread  # noqa: PLC0415

    every = read_questions(options.prompts)
    for question in every:
        if len(question.turns) > 1:
            raise DataError(
                f"question {question.id} has {len(question.turns)} turns, and the models' first "
                "answers would part the ways",
                where=options.prompts,
                fix="Give prompts of one turn; turns before it can stand in `messages`.",
            )
    return spread(every, options.limit)


def _answers(
    options: Options, model: str, answering: Answering, questions: Sequence[Question], store: str
) -> list[Answered]:
    from orpo.evaluate.answers import answer_questions  # noqa: PLC0415

    say(f"{named(model)} answers {len(questions)} prompts")
    with closing(answering.open(model)) as source:
        path = options.output_dir / store
        return answer_questions(source, questions, options.sampling, path, say)


def _compared(
    questions: Sequence[Question],
    texts: Sequence[str],
    before: Sequence[Answered],
    after: Sequence[Answered],
) -> list[Comparison]:
    from orpo.evaluate.judge.pairwise import Comparison  # noqa: PLC0415

    return [
        Comparison(
            question.id,
            question.turns[0] if question.is_text else question.conversation(),
            first.turns[0],
            second.turns[0],
            group=text,
        )
        for question, text, first, second in zip(questions, texts, before, after, strict=True)
    ]


def _account(
    texts: Sequence[str], before: Sequence[Answered], after: Sequence[Answered]
) -> dict[str, int]:
    found = {"prompts": len(texts), "different_prompts": len(set(texts))}
    for name, answers in (("baseline", before), ("model", after)):
        found[f"{name}_truncated_answers"] = sum(any(one.truncated) for one in answers)
        found[f"{name}_empty_answers"] = sum(not one.turns[0].strip() for one in answers)
    same = (first.turns == second.turns for first, second in zip(before, after, strict=True))
    found["identical_answers"] = sum(same)
    return found
