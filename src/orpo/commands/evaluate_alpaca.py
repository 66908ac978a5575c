"""`orpo evaluate alpaca`: a win rate against the published baseline of AlpacaEval 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo.commands import evaluate
from orpo.commands.console import say
from orpo.commands.evaluate import ANSWERS, JUDGMENTS
from orpo.errors import DataError, require_package
from orpo.evaluate.settings import JudgeSettings, Sampling
from orpo.options import group, option

if TYPE_CHECKING:
    from orpo.evaluate.alpaca import Baseline, Benchmark
    from orpo.evaluate.judged import JudgedPair

EXAMPLES = """\
examples:
  orpo evaluate alpaca run --judge gpt-4o
  orpo evaluate alpaca run --data alpaca_eval --judge judge --judge_url http://127.0.0.1:8000/v1
  orpo evaluate alpaca my-model --outputs model_outputs.json --judge gpt-4o
  orpo evaluate alpaca run                               outputs only, for the official tool
  orpo evaluate alpaca my-model --annotations annotations.json    verdicts of the official tool

Instructions, baseline and length control come from the data set tatsu-lab/alpaca_eval of the Hub,
or from --data FOLDER: alpaca_eval_gpt4_baseline.json, instruction_difficulty.csv, df_gamed.csv and
leaderboard.csv. Only verdicts of the official judge compare with the published leaderboard. The
same command goes on where it broke off."""


@dataclass(frozen=True, kw_only=True)
class Options(evaluate.Judged):
    """What is evaluated, on what, and by whom it is judged."""

    output_dir: Path = option(Path("orpo-eval-alpaca"), help="default orpo-eval-alpaca")
    data: str = option(
        "tatsu-lab/alpaca_eval", metavar="DATA", help="folder or data set of the Hub"
    )
    name: str | None = option(None, help="what the model is called in files and on the page")
    outputs: Path | None = option(None, metavar="FILE", help="its outputs, instead of asking MODEL")
    annotations: Path | None = option(
        None, metavar="FILE", help="official verdicts: nobody is asked"
    )
    sampling: Sampling = group(Sampling, "how it answers", max_new_tokens=2048)

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        if self.annotations is not None:
            given = {"--judge": self.judge, "--outputs": self.outputs, "--limit": self.limit}
            evaluate.refuse_beside("annotations", "--annotations", given)
        if self.outputs is not None:
            evaluate.refuse_beside("outputs", "--outputs", {"--server": self.answering.server})

    @property
    def called(self) -> str:
        """What the model is called in files and on the page."""
        return self.name or (self.model if self.annotations else evaluate.named(self.model))

    def settings(self) -> dict[str, Any]:
        """What the result depends on."""
        own = {name: getattr(self, name) for name in ("data", "annotations", "outputs")}
        asked = self.annotations is None and self.outputs is None
        return self.stated({"name": self.called, **own}, asked=asked)


def run(options: Options) -> dict[str, Any]:
    """Answer, judge, and show the win rates."""
    from orpo.evaluate import alpaca  # noqa: PLC0415
    from orpo.evaluate.judged import write_judgments  # noqa: PLC0415
    from orpo.evaluate.results import AlpacaResult  # noqa: PLC0415

    folder = options.output_dir
    judge = options.judge.kept_in(folder) if options.judge else None
    options.sampling.checked()
    if judge or options.annotations:
        require_package("sklearn", where="length control")
    benchmark = alpaca.read_benchmark(options.data)
    settings = options.settings()
    evaluate.claim(options, settings, (ANSWERS, alpaca.OUTPUTS))
    if options.annotations:
        more, pairs = _annotated(options.annotations, options.model, benchmark)
    else:
        more, pairs = _answered(options, judge, benchmark)
    more = {"missing": dict(benchmark.missing), **more}
    if more["missing"]:
        say(f"{options.data}: {alpaca.complaint(more['missing'])}")
    if pairs:
        write_judgments(folder / JUDGMENTS, pairs)
    from orpo.train.recorder import versions  # noqa: PLC0415 - loads torch

    known = versions("openai", "scikit-learn")
    about: dict[str, Any] = {"settings": settings, "data": benchmark.sources, "versions": known}
    found, page = evaluate.finish(AlpacaResult(model=options.called, **about, **more), folder)
    evaluate.show_rates(page, folder)
    return found


def _annotated(
    path: Path, model: str, benchmark: Benchmark
) -> tuple[dict[str, Any], list[JudgedPair]]:
    """Verdicts of another tool; (fields of the result, the pairs)."""
    from orpo.evaluate.alpaca import BASELINE  # noqa: PLC0415
    from orpo.evaluate.annotations import read_annotations  # noqa: PLC0415

    given = read_annotations(path, model, benchmark.baseline)
    _told(
        path,
        {
            **given.left_out,
            "rows without a verdict": given.unjudged,
            "instructions without a row": given.missing,
            "rows with another instruction's index; their text counts": given.contradicting,
        },
    )
    rates = benchmark.rates(given.pairs, placed=given.placed)
    gone = benchmark.missing.items()
    found = {
        "account": {
            "in_the_set": given.size,
            "instructions": len(given.pairs),
            "without_a_row": given.missing,
            "without_a_verdict": given.unjudged,
            "rows": len(given.pairs) + sum(given.left_out.values()),
            "left_out": given.left_out,
            "judged": rates.win_rate.n,
        },
        "missing": {n: why for n, why in gone if given.by_position or n != BASELINE},
        "judged_by": "annotations",
        "annotations": path.name,
        "annotator": given.annotator,
        "baseline": given.baseline or (benchmark.baseline.name if benchmark.baseline else ""),
        "not_comparable": " ".join(given.why_not_comparable()),
        "by_position": given.by_position,
        "contradicting": given.contradicting,
        "rates": rates,
    }
    return found, given.pairs


def _answered(
    options: Options, judge: JudgeSettings | None, benchmark: Benchmark
) -> tuple[dict[str, Any], list[JudgedPair]]:
    """The model's outputs, given or asked for, and what a judge says of them; as `_annotated`."""
    from orpo.evaluate import alpaca  # noqa: PLC0415
    from orpo.evaluate.judge.pairwise import Comparison  # noqa: PLC0415
    from orpo.evaluate.judged import judge_pairs  # noqa: PLC0415

    baseline = benchmark.baseline
    if baseline is None:
        raise DataError(
            f"there is no {alpaca.BASELINE} ({benchmark.missing[alpaca.BASELINE]})",
            where=f"--data {options.data}",
            fix="It holds the instructions and the baseline's answers; give a folder with it, or "
            "--annotations.",
        )
    outputs, account = _outputs(options, baseline)
    found: dict[str, Any] = {
        "account": account,
        "baseline": baseline.name,
        "outputs": alpaca.OUTPUTS,
    }
    if judge is None:
        say(
            "nobody judges: give --judge, or give these outputs to the official tool and its "
            "annotations.json to --annotations"
        )
        return found, []
    asked, theirs = baseline.instructions, baseline.outputs
    items = [Comparison(str(n), asked[n], theirs[n], output) for n, output in outputs.items()]
    known = [(n, asked[n], baseline.datasets[n]) for n in outputs]
    pairs, judged = judge_pairs(judge, items, known, say)
    rates = benchmark.rates(pairs)
    found |= {
        "account": {**account, "judged": rates.win_rate.n},
        "judged_by": "judge",
        "not_comparable": f"Judged by {judge.model} with this project's own prompts, in both "
        f"orders; published figures are by {alpaca.OFFICIAL_ANNOTATOR}.",
        "rates": rates,
        "judged": judged,
    }
    return found, pairs


def _outputs(options: Options, baseline: Baseline) -> tuple[dict[int, str], dict[str, Any]]:
    """(index of the instruction -> the model's output, the account)."""
    from orpo.evaluate import alpaca  # noqa: PLC0415
    from orpo.evaluate.questions import spread  # noqa: PLC0415

    questions, every = baseline.questions, len(baseline.instructions)
    chosen = spread(range(every), options.limit)
    account: dict[str, Any] = {"instructions": len(chosen), "in_the_set": every}
    if options.outputs is not None:
        said, others = alpaca.read_outputs(options.outputs, baseline.instructions)
        found = {index: said[index] for index in chosen if index in said}
        left_out = {"instructions without an output": len(chosen) - len(found), **others}
        return found, {**account, "left_out": _told(options.outputs, left_out)}
    folder, asked = options.output_dir, [questions[index] for index in chosen]
    store = folder / ANSWERS
    answered = options.answering.answers(options.model, asked, options.sampling, store)
    alpaca.write_outputs(answered, options.called, folder / alpaca.OUTPUTS)
    say(f"{len(answered)} outputs: {folder / alpaca.OUTPUTS}")
    found = {n: one.turns[0] for n, one in zip(chosen, answered, strict=True)}
    return found, {**account, "left_out": {}, **evaluate.counted(answered)}


def _told(file: Path, left_out: Mapping[str, int]) -> dict[str, int]:
    """What there is of this, told line by line."""
    found = {why: count for why, count in left_out.items() if count}
    for why, count in found.items():
        say(f"{file}: {count} {why}")
    return found
