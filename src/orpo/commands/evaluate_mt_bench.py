"""`orpo evaluate mt-bench`: answers, judgments, scores."""

from __future__ import annotations

import shlex
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
    refuse_beside,
    say_page,
    show,
)
from orpo.errors import ConfigError, DataError
from orpo.evaluate.settings import JudgeSettings, Sampling, positive
from orpo.options import argument, group, option

if TYPE_CHECKING:
    from orpo.evaluate.answers import Answered
    from orpo.evaluate.mt_bench.benchmark import Benchmark
    from orpo.evaluate.mt_bench.fastchat import Judgment
    from orpo.evaluate.results import MTBenchJudge
    from orpo.report.page import Page

EXAMPLES = """\
examples:
  orpo evaluate mt-bench run --judge gpt-4
  orpo evaluate mt-bench run --data mt_bench --judge judge --judge_url http://127.0.0.1:8000/v1
  orpo evaluate mt-bench my-model --answers model_answer/my-model.jsonl --judge gpt-4
  orpo evaluate mt-bench run --judge gpt-4 --also gpt-4_single.jsonl=zephyr-7b-beta,gpt-3.5-turbo
  orpo evaluate mt-bench my-model --judgments model_judgment/gpt-4_single.jsonl

Questions come from the Space lmsys/mt-bench of the Hub, reference answers and judge prompts from
FastChat on GitHub; or all three from --data FOLDER: question.jsonl, reference_answer.jsonl,
judge_prompts.jsonl. Published scores are by gpt-4. The same command goes on where it broke off."""

STORE = "answers"
_MODELS = 4  # columns that a terminal has room for
_SAME = (
    "model",
    "server",
    "answers",
    "judgments",
    "limit",
    "judge",
    "judge_temperature",
    "max_new_tokens",
    "top_p",
    "seed",
    "dtype",
)
"""Settings that one folder has one value of."""


@dataclass(frozen=True)
class Options:
    """What is evaluated, on what, and by whom it is judged."""

    model: str = argument("MODEL", help="model folder, adapter folder or Hub id")
    data: Path | None = option(
        None, metavar="FOLDER", help="the benchmark's files; fetched if absent"
    )
    output_dir: Path = option(Path("orpo-eval-mt-bench"), help="default orpo-eval-mt-bench")
    overwrite: bool = option(False, help="replace what other settings left there")
    name: str | None = option(None, help="what the model is called in files and on the page")
    also: list[str] = option(
        (),
        metavar="FILE",
        help="FastChat's judgments of other models, or FILE=NAME,NAME for some of them",
    )
    answers: Path | None = option(
        None, metavar="FILE", help="FastChat's answers, instead of asking MODEL"
    )
    judgments: Path | None = option(
        None, metavar="FILE", help="FastChat's judgments: nobody is asked"
    )
    limit: int | None = option(
        None, metavar="N", parse=positive, help="only N questions, spread over all of them"
    )
    answering: Answering = group(Answering, "asking the model")
    sampling: Sampling = group(
        Sampling,
        "how it answers",
        "temperatures are the protocol's",
        without=("temperature", "top_p"),
        max_new_tokens=1024,
    )
    judge: JudgeSettings | None = judge_group()

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        if self.judgments is not None:
            given = {
                "--judge": self.judge,
                "--answers": self.answers,
                "--server": self.answering.server,
                "--limit": self.limit,
            }
            refuse_beside("judgments", "--judgments", given)
        elif self.judge is None:
            raise ConfigError(
                "is needed",
                where="--judge",
                fix="Name a judge, or give --judgments FILE with its judgments.",
            )
        if self.answers is not None:
            refuse_beside("answers", "--answers", {"--server": self.answering.server})

    @property
    def called(self) -> str:
        """What the model is called in files and on the page."""
        return self.name or (self.model if self.judgments else named(self.model))

    def settings(self, judge: JudgeSettings | None) -> dict[str, Any]:
        """What the result depends on; no key, no cache."""
        asked = self.answers is None and self.judgments is None
        server, drawn = self.answering.server, ("max_new_tokens", "top_p", "seed")
        found = {
            "model": self.model,
            "name": self.called,
            "data": str(self.data) if self.data else None,
            "answers": str(self.answers) if self.answers else None,
            "judgments": str(self.judgments) if self.judgments else None,
            "also": ", ".join(self.also) or None,
            "limit": self.limit,
            "server": server,
            **({name: getattr(self.sampling, name) for name in drawn} if asked else {}),
            "dtype": self.answering.dtype if asked and not server else None,
            "judge": judge.model if judge else None,
            "judge_url": judge.as_dict()["base_url"] if judge else None,
            "judge_temperature": judge.temperature if judge else None,
        }
        return {name: value for name, value in found.items() if value is not None}

    def command(self, settings: dict[str, Any]) -> str:
        """What makes the same evaluation again."""
        left_out = {"model", "name", "also", "top_p"}
        words = ["orpo", "evaluate", "mt-bench", self.model]
        for name, value in settings.items():
            if name not in left_out:
                words += [f"--{name}", str(value)]
        words += ["--name", self.name] if self.name else []
        words += ["--also", *self.also] if self.also else []
        return shlex.join([*words, "--output_dir", str(self.output_dir)])


def run(options: Options) -> dict[str, Any]:
    """Answer, judge, score; show the scores by category."""
    from orpo.evaluate.mt_bench.benchmark import category_of, read_benchmark  # noqa: PLC0415
    from orpo.evaluate.mt_bench.fastchat import write_judgments  # noqa: PLC0415
    from orpo.evaluate.mt_bench.scores import compared, read_also  # noqa: PLC0415
    from orpo.evaluate.results import MTBenchResult  # noqa: PLC0415
    from orpo.train.recorder import versions  # noqa: PLC0415 - loads torch

    folder, judge = options.output_dir, options.judge
    judge = judge.kept_in(folder) if judge else None
    settings = options.settings(judge)
    # All that is given is read before anything is paid for or replaced.
    others = [(name, read_also(name)) for name in options.also]
    judged = None
    if judge is None:
        benchmark = read_benchmark(options.data) if options.data else None
        own, rest = _recorded(options)
        others.insert(0, ("", rest))
        _claim(options, settings)
        account = {"questions": len({one.question_id for one in own})}
        answers_from = f"judged already, {options.judgments.name if options.judgments else ''}"
    else:
        benchmark = _benchmark(options)
        own, judged, account = _judged(options, judge, benchmark, settings)
        answers_from = options.answering.server or "transformers"
        if options.answers:
            answers_from = f"FastChat's file {options.answers.name}"
    categories = benchmark.categories if benchmark else None
    scores, differences = compared(options.called, own, others, categories)
    main = scores[options.called]
    names = ("unparsed", "out_of_range", "judged_again", "flagged_answers")
    account |= {"judgments": main.rows, "scored": main.n}
    write_judgments(folder / JUDGMENTS, own)
    result = MTBenchResult(
        model=options.called,
        scores=scores,
        differences=differences,
        paper={name: dict(one) for name, one in benchmark.paper.items()} if benchmark else {},
        account={**account, **{name: getattr(main, name) for name in names}},
        categories={str(one.question_id): category_of(one.question_id, categories) for one in own},
        answers_from=answers_from,
        data=benchmark.sources if benchmark else {},
        settings={**settings, "command": options.command(settings)},
        versions=versions("openai"),
        judged=judged,
    )
    found, page = finish(result, folder)
    _show(page, folder, judged.trust.sentence if judged else "")
    return found


def _judged(
    options: Options, judge: JudgeSettings, benchmark: Benchmark, settings: dict[str, Any]
) -> tuple[list[Judgment], MTBenchJudge, dict[str, int]]:
    """(the model's judgments, who judged, what became of how many)."""
    from orpo.evaluate.mt_bench.grading import grade_benchmark  # noqa: PLC0415

    answered, account = _answers(options, benchmark, settings)
    found = grade_benchmark(benchmark, answered, judge, say)
    say(f"judge: {found.judged.cost}")
    account |= {
        "changed_answers": found.changed,
        "refused_by_the_server": found.refused,
        "judgments_cut_off": found.cut,
    }
    return list(found.judgments), found.judged, account


def _show(page: Page, folder: Path, trust: str) -> None:
    table, width = page.tables[0], 1 + _MODELS
    show(table.columns[:width], [row[:width] for row in table.rows])
    left = len(table.columns) - width
    say_page(page, folder, f"{left} more on the page" if left > 0 else "", end=trust)


def _claim(options: Options, settings: dict[str, Any]) -> None:
    answers = (ANSWERS, STORE)
    claim(options.output_dir, settings, answers, overwrite=options.overwrite, among=_SAME)


def _recorded(options: Options) -> tuple[list[Judgment], list[Judgment]]:
    """(the model's judgments, those of other models in the same file)."""
    from orpo.evaluate.mt_bench.fastchat import read_judgments  # noqa: PLC0415

    assert options.judgments is not None
    every = read_judgments(options.judgments)
    own = [replace(one, model=options.called) for one in every if one.model == options.model]
    if not own:
        names = ", ".join(dict.fromkeys(one.model for one in every))
        what = f"no judgment of a model {options.model!r}"
        raise DataError(what, where=str(options.judgments), fix=f"It has: {names}.")
    return own, [one for one in every if one.model != options.model]


def _benchmark(options: Options) -> Benchmark:
    from orpo.evaluate.mt_bench.benchmark import fetch_benchmark, read_benchmark  # noqa: PLC0415
    from orpo.evaluate.questions import spread  # noqa: PLC0415

    found = read_benchmark(options.data) if options.data else fetch_benchmark(say)
    return replace(found, questions=tuple(spread(found.questions, options.limit)))


def _answers(
    options: Options, benchmark: Benchmark, settings: dict[str, Any]
) -> tuple[list[Answered], dict[str, int]]:
    """(the answers, given or asked for; what became of how many)."""
    from orpo.evaluate.mt_bench.fastchat import read_answers, write_answers  # noqa: PLC0415
    from orpo.evaluate.mt_bench.grading import answer_benchmark  # noqa: PLC0415

    folder = options.output_dir
    left: dict[str, int] = {}
    if options.answers:
        answered, count = read_answers(options.answers, benchmark, options.called)
        left = {"answers_to_other_questions": count}
        _claim(options, settings)
    else:
        _claim(options, settings)
        with closing(options.answering.open(options.model)) as source:
            store = folder / STORE
            found = answer_benchmark(source, benchmark.questions, options.sampling, store, say)
        answered = [replace(one, model=options.called) for one in found]
    write_answers(folder / ANSWERS, answered, benchmark)
    return answered, {
        "questions": len(benchmark.questions),
        "answers": sum(len(one.turns) for one in answered),
        **left,
        "empty_answers": sum(not turn.strip() for one in answered for turn in one.turns),
        "truncated_answers": sum(sum(one.truncated) for one in answered),
    }
