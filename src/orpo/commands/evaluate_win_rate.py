"""`orpo evaluate win-rate`: two models on prompts of one's own, judged in both orders."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orpo.commands import evaluate
from orpo.commands.console import say
from orpo.commands.evaluate import ANSWERS, JUDGMENTS
from orpo.errors import ConfigError, DataError, require_package
from orpo.evaluate.questions import Answered, Question, read_questions, spread
from orpo.options import option

EXAMPLES = """\
examples:
  orpo evaluate win-rate run --prompts prompts.jsonl --judge gpt-4o
  orpo evaluate win-rate run --baseline another --prompts prompts.txt --limit 100 \\
      --judge judge --judge_url http://127.0.0.1:8000/v1
  orpo evaluate win-rate tuned --server http://127.0.0.1:8001/v1 \\
      --baseline base --baseline_server http://127.0.0.1:8002/v1 --prompts p.jsonl --judge gpt-4o

Both models answer each prompt, the judge compares in both orders. 50 % is no difference. A run is
compared with the model that it started from. The same command goes on where it broke off."""

BASELINE_ANSWERS = "answers-baseline.jsonl"


@dataclass(frozen=True, kw_only=True)
class Options(evaluate.Judged):
    """Which model is compared with which, on what, and by whom it is judged."""

    output_dir: Path = option(Path("orpo-eval-win-rate"), help="default orpo-eval-win-rate")
    baseline: str | None = option(
        None, metavar="MODEL", help="compare with this; default what the run started from"
    )
    prompts: str = option(metavar="FILE", help="prompts, as for `orpo generate`")
    baseline_server: str | None = option(None, metavar="URL", help="one for the baseline")

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        if self.judge is None:
            raise ConfigError("is needed", where="--judge", fix="Name a judge at its server.")

    def settings(self) -> dict[str, Any]:
        """What the result depends on."""
        own = {name: getattr(self, name) for name in ("baseline", "prompts", "baseline_server")}
        return {**self.stated(own), "dtype": self.answering.dtype}


def run(options: Options) -> dict[str, Any]:
    """Let both models answer and the judge compare; show the win rates."""
    from orpo.evaluate import judged  # noqa: PLC0415
    from orpo.evaluate.judge.fences import conversation  # noqa: PLC0415
    from orpo.evaluate.judge.pairwise import Comparison  # noqa: PLC0415
    from orpo.evaluate.results import WinRateResult  # noqa: PLC0415

    folder = options.output_dir
    assert options.judge is not None
    judge = options.judge.kept_in(folder)
    options.sampling.checked()
    require_package("sklearn", where="length control")
    questions = _questions(options)
    options = replace(options, baseline=evaluate.baseline_of(options.model, options.baseline))
    assert options.baseline is not None
    settings = options.settings()
    evaluate.claim(options, settings, (ANSWERS, BASELINE_ANSWERS))
    asked = _asked(options, questions)
    both = [(first.turns[0], second.turns[0]) for first, second in zip(*asked, strict=True)]
    prompts = [q.turns[0] if q.is_text else q.conversation() for q in questions]
    texts = [conversation(prompt) for prompt in prompts]
    each = zip(questions, prompts, texts, both, strict=True)
    items = [Comparison(q.id, prompt, *said, group=text) for q, prompt, text, said in each]
    known = [(t, t, q.category) for t, q in zip(texts, questions, strict=True)]
    pairs, verdicts = judged.judge_pairs(judge, items, known, say)
    judged.write_judgments(folder / JUDGMENTS, pairs)
    from orpo.train.recorder import versions  # noqa: PLC0415 - loads torch

    names = [options.model, options.baseline]
    short = [*map(evaluate.named, names)]
    model, baseline = names if short[0] == short[1] else short
    account = {"prompts": len(texts), "different_prompts": len(set(texts))}
    account |= evaluate.counted(asked[0], "baseline_") | evaluate.counted(asked[1], "model_")
    result = WinRateResult(
        model,
        baseline,
        settings=settings,
        account={**account, "identical_answers": sum(one == other for one, other in both)},
        versions=versions("openai", "scikit-learn"),
        rates=judged.rates_of(pairs, judged.LengthControl()),
        judged=verdicts,
    )
    found, page = evaluate.finish(result, folder)
    evaluate.show_rates(page, folder)
    return found


def _asked(options: Options, questions: list[Question]) -> list[list[Answered]]:
    """The answers of the baseline and of the model, in this order."""
    theirs = replace(options.answering, server=options.baseline_server)
    asked: list[list[Answered]] = []
    for model, answering, store in (
        (options.baseline or "", theirs, BASELINE_ANSWERS),
        (options.model, options.answering, ANSWERS),
    ):
        say(f"{evaluate.named(model)} answers {len(questions)} prompts")
        kept = options.output_dir / store
        asked.append(answering.answers(model, questions, options.sampling, kept))
    return asked


def _questions(options: Options) -> list[Question]:
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
