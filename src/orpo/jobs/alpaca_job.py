"""AlpacaEval 2 as a whole: answers in the official format, verdicts, win rates, the folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orpo.errors import ConfigError, DataError
from orpo.evaluate import Sampling
from orpo.evaluate.alpaca import (
    OUTPUTS,
    Baseline,
    Benchmark,
    neighbours,
    questions_of,
    read_annotations,
    read_benchmark,
    read_outputs,
    write_outputs,
)
from orpo.evaluate.alpaca.annotations import OFFICIAL_ANNOTATOR
from orpo.evaluate.alpaca.data import BASELINE, HUB, complaint
from orpo.evaluate.answers import answer_questions, open_source_of_answers
from orpo.evaluate.judge.pairwise import Comparison, compare_pairs
from orpo.evaluate.questions import spread
from orpo.evaluate.settings import JudgeSettings
from orpo.evaluate.win_rates import JudgedPair, WinRate, rated, summary, suspicious
from orpo.jobs.alpaca_verdicts import annotated_pairs, why_not_comparable
from orpo.jobs.evaluation_folder import ANSWERS, claim_folder
from orpo.jobs.judged_folder import (
    Answering,
    about_the_judge,
    finish,
    named,
)

__all__ = ["AlpacaJob", "run_alpaca"]

Say = Callable[[str], None]

_UNPLACED = (
    "no length control: it needs the difficulty of each instruction, rows are missing, and nothing "
    "in the file says which instruction a row is of"
)


@dataclass(frozen=True)
class AlpacaJob:
    """What is evaluated, on what, and by whom it is judged.

    Attributes:
        model: A model folder, an adapter folder or a Hub id; with a server, its name there; with
            annotations of several models, its name in them.
        output_dir: Where everything goes; a broken run goes on from it.
        data: A folder with the official files, or their data set's id on the Hub.
        judge: Who judges; without it and without annotations there are only outputs.
        annotations: Verdicts of the official tool, instead of answers and a judge.
        outputs: The model's answers in the official format, instead of asking it.
        name: What the model is called; the end of `model` if absent.
        limit: So many instructions, spread over all of them.
        answering: Where the model answers.
        sampling: How answers are drawn.
        overwrite: Replace what other settings have left in the folder.

    Raises:
        ConfigError: What is given does not go together.
    """

    model: str
    output_dir: Path = Path("orpo-eval-alpaca")
    data: str = HUB
    judge: JudgeSettings | None = None
    annotations: Path | None = None
    outputs: Path | None = None
    name: str | None = None
    limit: int | None = None
    answering: Answering = Answering()
    sampling: Sampling = Sampling(max_new_tokens=2048)
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        if self.annotations is not None:
            given = {"--judge": self.judge, "--outputs": self.outputs, "--limit": self.limit}
            for flag, value in given.items():
                if value is not None:
                    raise ConfigError(
                        "there is nothing to ask for where annotations are given",
                        where=flag,
                        fix=f"Leave out {flag} or --annotations.",
                    )
        if self.outputs is not None and self.answering.server is not None:
            raise ConfigError(
                "there is nothing to ask for where outputs are given",
                where="--server",
                fix="Leave out --server or --outputs.",
            )

    @property
    def called(self) -> str:
        """What the model is called in files and on the page."""
        return self.name or (self.model if self.annotations else named(self.model))

    def settings(self) -> dict[str, Any]:
        """What the result depends on; no key, no cache."""
        asked = self.annotations is None and self.outputs is None
        found = {
            "model": self.model,
            "name": self.called,
            "data": self.data,
            "annotations": str(self.annotations) if self.annotations else None,
            "outputs": str(self.outputs) if self.outputs else None,
            "limit": self.limit,
            "server": self.answering.server,
            "dtype": self.answering.dtype if asked and not self.answering.server else None,
            **(
                {k: v for k, v in vars(self.sampling).items() if k != "batch_size"} if asked else {}
            ),
            "judge": self.judge.model if self.judge else None,
            "judge_temperature": self.judge.temperature if self.judge else None,
            "judge_seed": self.judge.seed if self.judge else None,
        }
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class _Found:
    """Judged pairs, and what is known about how they came about."""

    pairs: list[JudgedPair] = field(default_factory=list)
    account: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    not_needed: tuple[str, ...] = ()
    placed: bool = True


def run_alpaca(job: AlpacaJob, *, say: Say) -> dict[str, Any]:
    """Answer, judge, and write everything into the job's folder.

    Args:
        job: What is evaluated.
        say: Told, line by line, what happens.

    Returns:
        What stands in evaluation.json, see `docs/evaluation/alpaca.md`.

    Raises:
        UserError: Something given cannot be used; nothing that was asked for is lost.
    """
    benchmark = read_benchmark(job.data)
    claim_folder(job.output_dir, job.settings(), (ANSWERS, OUTPUTS), overwrite=job.overwrite)
    found = _annotated(job, benchmark, say) if job.annotations else _answered(job, benchmark, say)
    missing = {n: why for n, why in benchmark.missing.items() if n not in found.not_needed}
    if missing:
        say(f"{job.data}: {complaint(missing)}")
    evaluation = {
        "kind": "alpaca",
        "model": job.called,
        "settings": job.settings(),
        "account": found.account,
        **found.facts,
        "data": dict(benchmark.sources),
        "missing": missing,
    }
    if found.pairs:
        evaluation |= _results(benchmark, found)
    return finish(job.output_dir, evaluation, found.pairs)


def _results(benchmark: Benchmark, found: _Found) -> dict[str, Any]:
    controlled = benchmark.has_length_control and found.placed
    settings: dict[str, Any] = {"length_control": controlled}
    if controlled:
        settings |= {"difficulty": benchmark.difficulty, "gamed": benchmark.gamed}
    rate = rated(found.pairs, **settings)
    if not controlled:
        missing = " and ".join(
            n for n in benchmark.missing if n.endswith(".csv") and "lead" not in n
        )
        why = f"no length control without {missing}" if missing else _UNPLACED
        rate = replace(rate, note=why)
    found.account["judged"] = rate.n
    return {
        "win_rate": rate.as_dict(),
        "suspicious": suspicious(found.pairs, **settings),
        "leaderboard": _leaderboard(benchmark, rate),
        **summary(found.pairs),
    }


def _leaderboard(benchmark: Benchmark, rate: WinRate) -> dict[str, Any] | None:
    if rate.lc_win_rate is None or not benchmark.leaderboard:
        return None
    near = neighbours(benchmark.leaderboard, rate.lc_win_rate)
    above = sum(entry.lc_win_rate > rate.lc_win_rate for entry in benchmark.leaderboard)
    return {
        "rank": above + 1,
        "published": len(benchmark.leaderboard),
        "neighbours": [vars(entry) for entry in near],
    }


def _said(file: Path, left_out: Mapping[str, int], say: Say) -> dict[str, int]:
    """What there is of this, told line by line."""
    found = {why: count for why, count in left_out.items() if count}
    for why, count in found.items():
        say(f"{file}: {count} {why}")
    return found


def _annotated(job: AlpacaJob, benchmark: Benchmark, say: Say) -> _Found:
    assert job.annotations is not None
    given = read_annotations(job.annotations, job.model, benchmark.baseline)
    account: dict[str, Any] = {
        "in_the_set": given.size,
        "instructions": len(given.index),
        "without_a_row": given.size - len(given.index),
        "without_a_verdict": sum(value is None for value in given.preference),
        "rows": len(given.index) + sum(given.left_out.values()),
        "left_out": dict(given.left_out),
    }
    gone = {
        **given.left_out,
        "rows without a verdict": account["without_a_verdict"],
        "instructions without a row": account["without_a_row"],
        "rows with another instruction's index; their text counts": given.contradicting,
    }
    _said(job.annotations, gone, say)
    facts = {
        "judged_by": "annotations",
        "annotations": job.annotations.name,
        "annotator": given.annotator,
        "baseline": given.baseline or (benchmark.baseline.name if benchmark.baseline else ""),
        "not_comparable": why_not_comparable(given),
        "by_position": given.by_position,
        "contradicting": given.contradicting,
    }
    not_needed = () if given.by_position else (BASELINE,)
    pairs = annotated_pairs(given, benchmark.baseline)
    return _Found(pairs, account, facts, not_needed, given.placed)


def _answered(job: AlpacaJob, benchmark: Benchmark, say: Say) -> _Found:
    baseline = benchmark.baseline
    if baseline is None:
        raise DataError(
            f"there is no {BASELINE} ({benchmark.missing[BASELINE]})",
            where=f"--data {job.data}",
            fix="It holds the instructions and the baseline's answers; give a folder with it, or "
            "--annotations.",
        )
    chosen = spread(range(len(baseline.instructions)), job.limit)
    outputs, account = _outputs(job, baseline, chosen, say)
    pairs = [
        (index, output) for index, output in zip(chosen, outputs, strict=True) if output is not None
    ]
    facts: dict[str, Any] = {"baseline": baseline.name, "outputs": OUTPUTS}
    if job.judge is None:
        say(
            "nobody judges: give --judge, or give these outputs to the official tool and its "
            "annotations.json to --annotations"
        )
        return _Found([], account, {**facts, "judged_by": ""})
    items = [
        Comparison(str(index), baseline.instructions[index], baseline.outputs[index], output)
        for index, output in pairs
    ]
    result = compare_pairs(job.judge, items, say)
    judged = [
        JudgedPair.of(
            item,
            verdict,
            index=index,
            prompt=baseline.instructions[index],
            category=baseline.datasets[index],
        )
        for (index, _), item, verdict in zip(pairs, items, result.items, strict=True)
    ]
    comparable = (
        f"Judged by {job.judge.model} with this project's own prompts, in both orders; published "
        f"figures are by {OFFICIAL_ANNOTATOR}."
    )
    facts |= {"judged_by": "judge", "not_comparable": comparable, **about_the_judge(result)}
    return _Found(judged, account, facts)


def _outputs(
    job: AlpacaJob, baseline: Baseline, chosen: Sequence[int], say: Say
) -> tuple[list[str | None], dict[str, Any]]:
    """(the model's output for each instruction that is asked, the account)."""
    account: dict[str, Any] = {
        "instructions": len(chosen),
        "in_the_set": len(baseline.instructions),
    }
    if job.outputs is not None:
        every, not_asked_for = read_outputs(job.outputs, baseline.instructions)
        outputs = [every[index] for index in chosen]
        left_out = {"instructions without an output": outputs.count(None), **not_asked_for}
        account["left_out"] = _said(job.outputs, left_out, say)
        return outputs, account
    source = open_source_of_answers(
        job.model,
        server=job.answering.server,
        api_key_env=job.answering.key_env,
        dtype=job.answering.dtype,
        trust_remote_code=job.answering.trust_remote_code,
    )
    try:
        questions = [questions_of(baseline)[index] for index in chosen]
        store = job.output_dir / ANSWERS
        answered = answer_questions(source, questions, job.sampling, store, say)
    finally:
        source.close()
    write_outputs(answered, job.called, job.output_dir / OUTPUTS)
    say(f"{len(answered)} outputs: {job.output_dir / OUTPUTS}")
    account["left_out"] = {}
    account["truncated_answers"] = sum(any(one.truncated) for one in answered)
    account["empty_answers"] = sum(not one.turns[0].strip() for one in answered)
    return [one.turns[0] for one in answered], account
