"""MT-Bench as a whole: answers, judgments, scores, and the folder with all of them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orpo.errors import ConfigError, DataError
from orpo.evaluate import Sampling
from orpo.evaluate.answers import Answered, open_source_of_answers
from orpo.evaluate.mt_bench import (
    MAX_NEW_TOKENS,
    Benchmark,
    Grading,
    answer_benchmark,
    fetch_benchmark,
    grade_benchmark,
    read_answers,
    read_benchmark,
    read_judgments,
    write_answers,
    write_judgments,
)
from orpo.evaluate.questions import spread
from orpo.evaluate.settings import JudgeSettings
from orpo.jobs.evaluation_folder import ANSWERS, JUDGMENTS, claim_folder
from orpo.jobs.mt_bench_result import Graded, evaluation, read_also
from orpo.runs import EVALUATION, write_json
from orpo.train.recorder import versions

__all__ = ["MTBenchJob", "run_mt_bench"]

Say = Callable[[str], None]

STORE = "answers"
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
class MTBenchJob:
    """What is evaluated, on what, and by whom it is judged.

    Attributes:
        model: A model folder, an adapter folder or a Hub id; with a server, its name there; with
            judgments, its name in them.
        output_dir: Where everything goes; a broken run goes on from it.
        data: A folder with the benchmark; fetched if absent.
        judge: Who judges; not needed where there are judgments.
        answers: FastChat's file of the model's answers, instead of asking it.
        judgments: FastChat's file of judgments, instead of answers and a judge.
        also: Files of judgments of other models: FILE, or FILE=NAME,NAME for some of them.
        name: What the model is called; the end of `model` if absent.
        limit: So many questions, spread over all of them.
        server: Address of an OpenAI-compatible server that answers as the model.
        server_key_env: Environment variable with that server's key.
        sampling: Seed, length and batch size of answers; temperatures are the protocol's.
        dtype: Of the weights.
        trust_remote_code: Allow the model's own code to run.
        overwrite: Replace what other settings have left in the folder.

    Raises:
        ConfigError: What is given does not go together.
    """

    model: str
    output_dir: Path = Path("orpo-eval-mt-bench")
    data: Path | None = None
    judge: JudgeSettings | None = None
    answers: Path | None = None
    judgments: Path | None = None
    also: tuple[str, ...] = ()
    name: str | None = None
    limit: int | None = None
    server: str | None = None
    server_key_env: str = "OPENAI_API_KEY"
    sampling: Sampling = Sampling(max_new_tokens=MAX_NEW_TOKENS)
    dtype: str = "auto"
    trust_remote_code: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        if self.judgments is not None:
            given: dict[str, object] = {
                "--judge": self.judge,
                "--answers": self.answers,
                "--server": self.server,
                "--limit": self.limit,
            }
            for flag, value in given.items():
                if value is not None:
                    raise ConfigError(
                        "there is nothing to ask for where judgments are given",
                        where=flag,
                        fix=f"Leave out {flag} or --judgments.",
                    )
        elif self.judge is None:
            raise ConfigError(
                "is needed",
                where="--judge",
                fix="Name a judge, or give --judgments FILE with its judgments.",
            )
        if self.answers is not None and self.server is not None:
            raise ConfigError(
                "there is nothing to ask for where answers are given",
                where="--server",
                fix="Leave out --server or --answers.",
            )

    @property
    def called(self) -> str:
        """What the model is called in files and on the page."""
        if self.name:
            return self.name
        if self.judgments is None and Path(self.model).is_dir():
            return Path(self.model).resolve().name
        return self.model

    def settings(self) -> dict[str, Any]:
        """What the result depends on; no key, no cache."""
        sampling = {
            "max_new_tokens": self.sampling.max_new_tokens,
            "top_p": self.sampling.top_p,
            "seed": self.sampling.seed,
        }
        asked = self.answers is None and self.judgments is None
        found = {
            "model": self.model,
            "name": self.called,
            "data": str(self.data) if self.data else None,
            "answers": str(self.answers) if self.answers else None,
            "judgments": str(self.judgments) if self.judgments else None,
            "also": ", ".join(self.also) or None,
            "limit": self.limit,
            "server": self.server,
            **(sampling if asked else {}),
            "dtype": self.dtype if asked and not self.server else None,
            "judge": self.judge.model if self.judge else None,
            "judge_url": self.judge.as_dict()["base_url"] if self.judge else None,
            "judge_temperature": self.judge.temperature if self.judge else None,
        }
        return {name: value for name, value in found.items() if value is not None}


def run_mt_bench(job: MTBenchJob, *, say: Say) -> dict[str, Any]:
    """Answer, judge, score; write everything into the job's folder.

    Args:
        job: What is evaluated.
        say: Told, line by line, what happens.

    Returns:
        What stands in evaluation.json.

    Raises:
        UserError: Something given cannot be used; nothing that was asked for is lost.
    """
    # All that is given is read before anything is paid for or replaced.
    also = [(name, read_also(name)) for name in job.also]
    if job.judgments is not None:
        graded = _recorded(job, job.judgments)
        _claim(job)
    else:
        benchmark = _benchmark(job, say)
        given = read_answers(job.answers, benchmark, job.called) if job.answers else None
        _claim(job)
        graded = _judged(job, benchmark, given, say)
    result = {
        **evaluation(job.called, graded, also),
        "settings": {**job.settings(), "command": _command(job)},
        "versions": versions("openai"),
    }
    write_judgments(job.output_dir / JUDGMENTS, graded.judgments)
    write_json(job.output_dir / EVALUATION, result)
    from orpo.report.write import write_report  # noqa: PLC0415 - matplotlib loads in seconds

    write_report(job.output_dir)
    return result


def _claim(job: MTBenchJob) -> None:
    answers = (ANSWERS, STORE)
    claim_folder(job.output_dir, job.settings(), answers, overwrite=job.overwrite, among=_SAME)


def _judged(
    job: MTBenchJob, benchmark: Benchmark, given: tuple[list[Answered], int] | None, say: Say
) -> Graded:
    assert job.judge is not None
    answered, left = given or (_ask(job, benchmark, say), 0)
    write_answers(job.output_dir / ANSWERS, answered, benchmark)
    grading = grade_benchmark(benchmark, answered, job.judge, say)
    say(f"judge: {grading.spend}")
    return Graded(
        judgments=list(grading.judgments),
        others=[],
        benchmark=benchmark,
        facts=_facts(job, grading),
        account={
            "questions": len(benchmark.questions),
            "answers": sum(len(one.turns) for one in answered),
            **({"answers_to_other_questions": left} if job.answers else {}),
            "empty_answers": sum(not turn.strip() for one in answered for turn in one.turns),
            "truncated_answers": sum(sum(one.truncated) for one in answered),
            "changed_answers": grading.changed,
            "refused_by_the_server": grading.refused,
            "judgments_cut_off": grading.cut,
        },
    )


def _facts(job: MTBenchJob, grading: Grading) -> dict[str, Any]:
    source = f"FastChat's file {job.answers.name}" if job.answers else job.server or "transformers"
    return {
        "answers_from": source,
        "judge": {**grading.settings.as_dict(), "reported": list(grading.reported)},
        "trust": grading.trust.as_dict(),
        "canary_scores": dict(grading.canary_scores),
        "cost": grading.spend.as_dict(),
    }


def _benchmark(job: MTBenchJob, say: Say) -> Benchmark:
    benchmark = read_benchmark(job.data) if job.data else fetch_benchmark(say)
    return replace(benchmark, questions=tuple(spread(benchmark.questions, job.limit)))


def _ask(job: MTBenchJob, benchmark: Benchmark, say: Say) -> list[Answered]:
    source = open_source_of_answers(
        job.model,
        server=job.server,
        api_key_env=job.server_key_env,
        dtype=job.dtype,
        trust_remote_code=job.trust_remote_code,
    )
    try:
        store = job.output_dir / STORE
        answered = answer_benchmark(source, benchmark.questions, job.sampling, store, say)
    finally:
        source.close()
    return [replace(one, model=job.called) for one in answered]


def _recorded(job: MTBenchJob, path: Path) -> Graded:
    every = read_judgments(path)
    own = [one for one in every if one.model == job.model]
    if not own:
        names = ", ".join(dict.fromkeys(one.model for one in every))
        raise DataError(
            f"no judgment of a model {job.model!r}",
            where=str(path),
            fix=f"It has: {names}.",
        )
    return Graded(
        judgments=[replace(one, model=job.called) for one in own],
        others=[one for one in every if one.model != job.model],
        benchmark=read_benchmark(job.data) if job.data else None,
        facts={"answers_from": f"judged already, {path.name}"},
        account={"questions": len({one.question_id for one in own})},
    )


def _command(job: MTBenchJob) -> str:
    """What makes the same evaluation again."""
    left_out = {"model", "name", "also", "top_p"}
    words = ["orpo", "evaluate", "mt-bench", job.model]
    for name, value in job.settings().items():
        if name not in left_out:
            words += [f"--{name}", str(value)]
    words += ["--name", job.name] if job.name else []
    words += ["--also", *job.also] if job.also else []
    words += ["--output_dir", str(job.output_dir)]
    return shlex.join(words)
