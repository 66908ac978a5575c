"""`orpo evaluate mt-bench`: answers, judgments, scores."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo.commands import evaluate
from orpo.commands.console import say
from orpo.commands.evaluate import ANSWERS, JUDGMENTS
from orpo.errors import ConfigError
from orpo.evaluate import mt_bench
from orpo.evaluate.mt_bench import Benchmark, Judgment
from orpo.evaluate.questions import Answered, spread
from orpo.evaluate.settings import JudgeSettings, Sampling
from orpo.options import group, option

if TYPE_CHECKING:
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
    *("model", "server", "answers", "judgments", "limit", "judge", "judge_temperature"),
    *("max_new_tokens", "top_p", "seed", "dtype"),
)
"""Settings that one folder has one value of."""


@dataclass(frozen=True, kw_only=True)
class Options(evaluate.Judged):
    """What is evaluated, on what, and by whom it is judged."""

    output_dir: Path = option(Path("orpo-eval-mt-bench"), help="default orpo-eval-mt-bench")
    data: Path | None = option(
        None, metavar="FOLDER", help="the benchmark's files; fetched if absent"
    )
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
    sampling: Sampling = group(
        Sampling,
        "how it answers",
        "temperatures are the protocol's",
        without=("temperature", "top_p"),
        max_new_tokens=1024,
    )

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        if self.judgments is not None:
            asked = {"--judge": self.judge, "--server": self.answering.server}
            given = {**asked, "--answers": self.answers, "--limit": self.limit}
            evaluate.refuse_beside("judgments", "--judgments", given)
        elif self.judge is None:
            fix = "Name a judge, or give --judgments FILE with its judgments."
            raise ConfigError("is needed", where="--judge", fix=fix)
        if self.answers is not None:
            evaluate.refuse_beside("answers", "--answers", {"--server": self.answering.server})

    @property
    def called(self) -> str:
        """What the model is called in files and on the page."""
        return self.name or (self.model if self.judgments else evaluate.named(self.model))

    def settings(self) -> dict[str, Any]:
        """What the result depends on."""
        own = {name: getattr(self, name) for name in ("data", "answers", "judgments")}
        return self.stated(
            {"name": self.called, **own, "also": ", ".join(self.also) or None},
            asked=self.answers is None and self.judgments is None,
            drawn=("max_new_tokens", "top_p", "seed"),
            of_judge=("url", "temperature"),
        )

    def command(self, settings: dict[str, Any]) -> str:
        """What makes the same evaluation again."""
        left_out = {"model", "name", "also", "top_p"}
        words = ["orpo", "evaluate", "mt-bench", self.model]
        for name, value in settings.items():
            words += [f"--{name}", str(value)] if name not in left_out else []
        words += ["--name", self.name] if self.name else []
        words += ["--also", *self.also] if self.also else []
        return shlex.join([*words, "--output_dir", str(self.output_dir)])


def run(options: Options) -> dict[str, Any]:
    """Answer, judge, score; show the scores by category."""
    from orpo.evaluate.mt_bench_grading import compared, read_also  # noqa: PLC0415
    from orpo.evaluate.results import MTBenchResult  # noqa: PLC0415

    folder = options.output_dir
    judge = options.judge.kept_in(folder) if options.judge else None
    settings = replace(options, judge=judge).settings()
    # All that is given is read before anything is paid for or replaced.
    others = [(name, read_also(name)) for name in options.also]
    judged, answers_from = None, options.answering.server or "transformers"
    if judge is None:
        benchmark = mt_bench.read_benchmark(options.data) if options.data else None
        own, rest = _recorded(options)
        others.insert(0, ("", rest))
        evaluate.claim(options, settings, (ANSWERS, STORE), among=_SAME)
        account = {"questions": len({one.question_id for one in own})}
    else:
        benchmark = _benchmark(options)
        own, judged, account = _judged(options, judge, benchmark, settings)
    if given := options.judgments or options.answers:
        what = "FastChat's file" if judge else "judged already,"
        answers_from = f"{what} {given.name}"
    categories = benchmark.categories if benchmark else None
    scores, differences = compared(options.called, own, others, categories)
    main = scores[options.called]
    names = ("unparsed", "out_of_range", "judged_again", "flagged_answers")
    account |= {"judgments": main.rows, "scored": main.n}
    mt_bench.write_judgments(folder / JUDGMENTS, own)
    from orpo.train.recorder import versions  # noqa: PLC0415 - loads torch

    result = MTBenchResult(
        model=options.called,
        scores=scores,
        differences=differences,
        paper={name: dict(one) for name, one in benchmark.paper.items()} if benchmark else {},
        account={**account, **{name: getattr(main, name) for name in names}},
        categories={
            str(one.question_id): mt_bench.category_of(one.question_id, categories) for one in own
        },
        answers_from=answers_from,
        data=benchmark.sources if benchmark else {},
        settings={**settings, "command": options.command(settings)},
        versions=versions("openai"),
        judged=judged,
    )
    found, page = evaluate.finish(result, folder)
    _show(page, folder, judged.trust.sentence if judged else "")
    return found


def _show(page: Page, folder: Path, trust: str) -> None:
    table, width = page.tables[0], 1 + _MODELS
    evaluate.show(table.columns[:width], [row[:width] for row in table.rows])
    left = len(table.columns) - width
    evaluate.say_page(page, folder, f"{left} more on the page" if left > 0 else "", end=trust)


def _recorded(options: Options) -> tuple[list[Judgment], list[Judgment]]:
    """(the model's judgments, those of other models in the same file)."""
    from orpo.evaluate.mt_bench_grading import require_model  # noqa: PLC0415

    every = mt_bench.read_judgments(str(options.judgments))
    require_model(every, options.model, str(options.judgments))
    own = [replace(one, model=options.called) for one in every if one.model == options.model]
    return own, [one for one in every if one.model != options.model]


def _benchmark(options: Options) -> Benchmark:
    data = options.data
    found = mt_bench.read_benchmark(data) if data else mt_bench.fetch_benchmark(say)
    return replace(found, questions=tuple(spread(found.questions, options.limit)))


def _judged(
    options: Options, judge: JudgeSettings, benchmark: Benchmark, settings: dict[str, Any]
) -> tuple[list[Judgment], MTBenchJudge, dict[str, int]]:
    """(the model's judgments, who judged, what became of how many)."""
    from orpo.evaluate import mt_bench_grading  # noqa: PLC0415

    folder, called = options.output_dir, options.called
    left: dict[str, int] = {}
    answered: list[Answered] = []
    if options.answers:
        answered, count = mt_bench.read_answers(options.answers, benchmark, called)
        left = {"answers_to_other_questions": count}
    evaluate.claim(options, settings, (ANSWERS, STORE), among=_SAME)
    if not options.answers:
        asked, ask = benchmark.questions, mt_bench_grading.answer_benchmark
        found = options.answering.answers(
            options.model, asked, options.sampling, folder / STORE, ask
        )
        answered = [replace(one, model=called) for one in found]
    mt_bench.write_answers(folder / ANSWERS, answered, benchmark)
    judgments, more, judged = mt_bench_grading.grade_benchmark(benchmark, answered, judge, say)
    say(f"judge: {judged.cost}")
    account = {
        "questions": len(benchmark.questions),
        "answers": sum(len(one.turns) for one in answered),
        **left,
        **evaluate.counted(answered),
        **more,
    }
    return judgments, judged, account
