"""`orpo evaluate win-rate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from orpo.commands.console import console, rows_table, say
from orpo.commands.judge_options import (
    add_judge_flags,
    add_sampling,
    judge_settings,
    sampling,
)
from orpo.errors import ConfigError
from orpo.evaluate.settings import positive
from orpo.jobs.judged_folder import Answering
from orpo.jobs.win_rate_job import WinRateJob, run_win_rate
from orpo.runs import REPORT

EXAMPLES = """\
examples:
  orpo evaluate win-rate run --baseline base-model --prompts prompts.jsonl --judge gpt-4o
  orpo evaluate win-rate run --baseline base-model --prompts prompts.txt --limit 100 \\
      --judge judge --judge_url http://127.0.0.1:8000/v1
  orpo evaluate win-rate tuned --server http://127.0.0.1:8001/v1 \\
      --baseline base --baseline_server http://127.0.0.1:8002/v1 --prompts p.jsonl --judge gpt-4o

Both models answer each prompt, the judge compares in both orders. 50 % is no difference. The same
command goes on where it broke off."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Models, prompts and judge."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="model folder, adapter folder or Hub id")
    add("--baseline", metavar="MODEL", required=True, help="compare with this, such as the base")
    add("--prompts", metavar="FILE", required=True, help="prompts, as for `orpo generate`")
    add("--output_dir", "--output-dir", type=Path, default=WinRateJob.output_dir)
    add("--overwrite", action="store_true", help="replace what other settings left there")
    add("--limit", type=positive, metavar="N", help="only N prompts, spread over all of them")
    add_asking(parser, max_new_tokens=WinRateJob.sampling.max_new_tokens)
    add("--baseline_server", "--baseline-server", metavar="URL", help="one for the baseline")
    add_judge_flags(parser)


def add_asking(parser: argparse.ArgumentParser, *, max_new_tokens: int) -> None:
    """Where a model answers, and how its answers are drawn."""
    asking = parser.add_argument_group("asking the model")
    add = asking.add_argument
    add("--server", metavar="URL", help="an OpenAI-compatible server that answers as MODEL")
    add("--server_key_env", "--server-key-env", default=Answering.key_env, metavar="NAME")
    add("--dtype", default=Answering.dtype, help="dtype of the weights")
    add_sampling(parser)
    parser.set_defaults(max_new_tokens=max_new_tokens)


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Compare, and show the win rates."""
    judge = judge_settings(given, given.output_dir)
    if judge is None:
        raise ConfigError("is needed", where="--judge", fix="Name a judge at its server.")
    common = (given.server_key_env, given.dtype, given.trust_remote_code)
    job = WinRateJob(
        model=given.model,
        baseline=given.baseline,
        prompts=given.prompts,
        judge=judge,
        output_dir=given.output_dir,
        answering=Answering(given.server, *common),
        baseline_answering=Answering(given.baseline_server, *common),
        sampling=sampling(given),
        limit=given.limit,
        overwrite=given.overwrite,
    )
    result = run_win_rate(job, say=say)
    show_rates(given.output_dir)
    return result


def show_rates(folder: Path) -> None:
    """The numbers of an evaluation as a table, and in words."""
    from orpo.report.kinds import read_page  # noqa: PLC0415 - loads matplotlib

    page = read_page(folder)
    if page.headlines:
        rows = [[one.label, one.value, one.interval] for one in page.headlines]
        console.print(rows_table(["", "found", "how sure"], rows, lines=False))
    for line in (page.verdict, *page.remarks, f"page: {folder / REPORT}"):
        say(line)
