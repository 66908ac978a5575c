"""`orpo evaluate alpaca`: a win rate against the published baseline of AlpacaEval 2."""

from __future__ import annotations

from collections.abc import Mapping
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
    show_rates,
)
from orpo.errors import DataError
from orpo.evaluate.settings import JudgeSettings, Sampling, positive
from orpo.options import argument, group, option

if TYPE_CHECKING:
    from orpo.evaluate.alpaca.files import Baseline, Benchmark
    from orpo.evaluate.results import AlpacaRates, AlpacaResult
    from orpo.evaluate.win_rates.judged import JudgedPair

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


@dataclass(frozen=True)
class Options:
    """What is evaluated, on what, and by whom it is judged."""

    model: str = argument("MODEL", help="model folder, adapter folder or Hub id")
    data: str = option(
        "tatsu-lab/alpaca_eval", metavar="DATA", help="folder or data set of the Hub"
    )
    output_dir: Path = option(Path("orpo-eval-alpaca"), help="default orpo-eval-alpaca")
    overwrite: bool = option(False, help="replace what other settings left there")
    name: str | None = option(None, help="what the model is called in files and on the page")
    outputs: Path | None = option(None, metavar="FILE", help="its outputs, instead of asking MODEL")
    annotations: Path | None = option(
        None, metavar="FILE", help="official verdicts: nobody is asked"
    )
    limit: int | None = option(
        None, metavar="N", parse=positive, help="only N instructions, spread over all"
    )
    answering: Answering = group(Answering, "asking the model")
    sampling: Sampling = group(Sampling, "how it answers", max_new_tokens=2048)
    judge: JudgeSettings | None = judge_group()

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        if self.annotations is not None:
            given = {"--judge": self.judge, "--outputs": self.outputs, "--limit": self.limit}
            refuse_beside("annotations", "--annotations", given)
        if self.outputs is not None:
            refuse_beside("outputs", "--outputs", {"--server": self.answering.server})

    @property
    def called(self) -> str:
        """What the model is called in files and on the page."""
        return self.name or (self.model if self.annotations else named(self.model))

    def settings(self) -> dict[str, Any]:
        """What the result depends on; no key, no cache."""
        asked = self.annotations is None and self.outputs is None
        sampling = {k: v for k, v in vars(self.sampling).items() if k != "batch_size"}
        found = {
            "model": self.model,
            "name": self.called,
            "data": self.data,
            "annotations": str(self.annotations) if self.annotations else None,
            "outputs": str(self.outputs) if self.outputs else None,
            "limit": self.limit,
            "server": self.answering.server,
            "dtype": self.answering.dtype if asked and not self.answering.server else None,
            **(sampling if asked else {}),
            "judge": self.judge.model if self.judge else None,
            "judge_temperature": self.judge.temperature if self.judge else None,
            "judge_seed": self.judge.seed if self.judge else None,
        }
        return {name: value for name, value in found.items() if value is not None}


def run(options: Options) -> dict[str, Any]:
    """Answer, judge, and show the win rates."""
    from orpo.evaluate.alpaca import files, rows  # noqa: PLC0415
    from orpo.evaluate.results import AlpacaResult  # noqa: PLC0415
    from orpo.evaluate.win_rates.judged import write_judgments  # noqa: PLC0415
    from orpo.train.recorder import versions  # noqa: PLC0415 - loads torch

    folder = options.output_dir
    judge = options.judge.kept_in(folder) if options.judge else None
    options.sampling.checked()
    benchmark = files.read_benchmark(options.data)
    settings = options.settings()
    claim(folder, settings, (ANSWERS, rows.OUTPUTS), overwrite=options.overwrite)
    empty = AlpacaResult(
        model=options.called,
        settings=settings,
        account={},
        data=benchmark.sources,
        missing=dict(benchmark.missing),
        versions=versions("openai", "scikit-learn"),
    )
    if options.annotations:
        result, pairs = _annotated(options.annotations, options.model, benchmark, empty)
    else:
        result, pairs = _answered(options, judge, benchmark, empty)
    if result.missing:
        say(f"{options.data}: {files.complaint(result.missing)}")
    if pairs:
        write_judgments(folder / JUDGMENTS, pairs)
    found, page = finish(result, folder)
    show_rates(page, folder)
    return found


def _rates(benchmark: Benchmark, pairs: list[JudgedPair], *, placed: bool = True) -> AlpacaRates:
    """What the pairs say together; why it is not length-controlled, and where it would stand."""
    from orpo.evaluate.alpaca.rows import UNPLACED  # noqa: PLC0415
    from orpo.evaluate.results import AlpacaRates  # noqa: PLC0415
    from orpo.evaluate.win_rates.judged import rates_of  # noqa: PLC0415

    control = benchmark.control if placed else None
    found = rates_of(pairs, control)
    rate = found.win_rate
    if control is None:
        names = (n for n in benchmark.missing if n.endswith(".csv") and "lead" not in n)
        missing = " and ".join(names)
        why = f"no length control without {missing}" if missing else UNPLACED
        rate = replace(rate, note=why)
    place = benchmark.place_of(rate)
    return AlpacaRates(**{**vars(found), "win_rate": rate}, leaderboard=place)


def _annotated(
    path: Path, model: str, benchmark: Benchmark, empty: AlpacaResult
) -> tuple[AlpacaResult, list[JudgedPair]]:
    """Verdicts of another tool."""
    from orpo.evaluate.alpaca.files import BASELINE  # noqa: PLC0415
    from orpo.evaluate.alpaca.rows import read_annotations  # noqa: PLC0415

    given = read_annotations(path, model, benchmark.baseline)
    known, unjudged = len(given.index), given.preference.count(None)
    _told(
        path,
        {
            **given.left_out,
            "rows without a verdict": unjudged,
            "instructions without a row": given.size - known,
            "rows with another instruction's index; their text counts": given.contradicting,
        },
    )
    pairs = given.pairs(benchmark.baseline)
    rates = _rates(benchmark, pairs, placed=given.placed)
    result = replace(
        empty,
        account={
            "in_the_set": given.size,
            "instructions": known,
            "without_a_row": given.size - known,
            "without_a_verdict": unjudged,
            "rows": known + sum(given.left_out.values()),
            "left_out": dict(given.left_out),
            "judged": rates.win_rate.n,
        },
        missing={n: w for n, w in empty.missing.items() if given.by_position or n != BASELINE},
        judged_by="annotations",
        annotations=path.name,
        annotator=given.annotator,
        baseline=given.baseline or (benchmark.baseline.name if benchmark.baseline else ""),
        not_comparable=given.why_not_comparable(),
        by_position=given.by_position,
        contradicting=given.contradicting,
        rates=rates,
    )
    return result, pairs


def _answered(
    options: Options, judge: JudgeSettings | None, benchmark: Benchmark, empty: AlpacaResult
) -> tuple[AlpacaResult, list[JudgedPair]]:
    """The model's outputs, given or asked for, and what a judge says of them."""
    from orpo.evaluate.alpaca import files, rows  # noqa: PLC0415
    from orpo.evaluate.judge.pairwise import Comparison  # noqa: PLC0415
    from orpo.evaluate.win_rates.judged import judge_pairs  # noqa: PLC0415

    baseline = benchmark.baseline
    if baseline is None:
        raise DataError(
            f"there is no {files.BASELINE} ({benchmark.missing[files.BASELINE]})",
            where=f"--data {options.data}",
            fix="It holds the instructions and the baseline's answers; give a folder with it, or "
            "--annotations.",
        )
    outputs, account = _outputs(options, baseline)
    result = replace(empty, account=account, baseline=baseline.name, outputs=rows.OUTPUTS)
    if judge is None:
        say(
            "nobody judges: give --judge, or give these outputs to the official tool and its "
            "annotations.json to --annotations"
        )
        return result, []
    items = [
        Comparison(str(index), baseline.instructions[index], baseline.outputs[index], output)
        for index, output in outputs.items()
    ]
    known = [(n, baseline.instructions[n], baseline.datasets[n]) for n in outputs]
    pairs, judged = judge_pairs(judge, items, known, say)
    rates = _rates(benchmark, pairs)
    result = replace(
        result,
        account={**account, "judged": rates.win_rate.n},
        judged_by="judge",
        not_comparable=f"Judged by {judge.model} with this project's own prompts, in both orders; "
        f"published figures are by {rows.OFFICIAL_ANNOTATOR}.",
        rates=rates,
        judged=judged,
    )
    return result, pairs


def _outputs(options: Options, baseline: Baseline) -> tuple[dict[int, str], dict[str, Any]]:
    """(index of the instruction -> the model's output, the account)."""
    from orpo.evaluate.alpaca import rows  # noqa: PLC0415
    from orpo.evaluate.answers import answer_questions  # noqa: PLC0415
    from orpo.evaluate.questions import spread  # noqa: PLC0415

    every = baseline.instructions
    chosen = spread(range(len(every)), options.limit)
    account: dict[str, Any] = {"instructions": len(chosen), "in_the_set": len(every)}
    if options.outputs is not None:
        said, not_asked_for = rows.read_outputs(options.outputs, every)
        found = {index: output for index in chosen if (output := said[index]) is not None}
        left_out = {"instructions without an output": len(chosen) - len(found), **not_asked_for}
        return found, {**account, "left_out": _told(options.outputs, left_out)}
    questions = [rows.questions_of(baseline)[index] for index in chosen]
    folder = options.output_dir
    with closing(options.answering.open(options.model)) as source:
        answered = answer_questions(source, questions, options.sampling, folder / ANSWERS, say)
    rows.write_outputs(answered, options.called, folder / rows.OUTPUTS)
    say(f"{len(answered)} outputs: {folder / rows.OUTPUTS}")
    account |= {
        "left_out": {},
        "truncated_answers": sum(any(one.truncated) for one in answered),
        "empty_answers": sum(not one.turns[0].strip() for one in answered),
    }
    return {n: one.turns[0] for n, one in zip(chosen, answered, strict=True)}, account


def _told(file: Path, left_out: Mapping[str, int]) -> dict[str, int]:
    """What there is of this, told line by line."""
    found = {why: count for why, count in left_out.items() if count}
    for why, count in found.items():
        say(f"{file}: {count} {why}")
    return found
