"""`orpo evaluate alpaca`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from orpo.commands.console import say
from orpo.commands.evaluate_win_rate import add_asking, show_rates
from orpo.commands.judge_options import add_judge_flags, judge_settings, sampling
from orpo.evaluate.settings import positive
from orpo.jobs.alpaca_job import AlpacaJob, run_alpaca
from orpo.jobs.judged_folder import Answering

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


def configure(parser: argparse.ArgumentParser) -> None:
    """Model, data, judge, and what there is already."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="model folder, adapter folder or Hub id")
    add("--data", default=AlpacaJob.data, metavar="DATA", help="folder or data set of the Hub")
    add("--output_dir", "--output-dir", type=Path, default=AlpacaJob.output_dir)
    add("--overwrite", action="store_true", help="replace what other settings left there")
    add("--name", help="what the model is called in files and on the page")
    add("--outputs", type=Path, metavar="FILE", help="its outputs, instead of asking MODEL")
    add("--annotations", type=Path, metavar="FILE", help="official verdicts: nobody is asked")
    add("--limit", type=positive, metavar="N", help="only N instructions, spread over all")
    add_asking(parser, max_new_tokens=AlpacaJob.sampling.max_new_tokens)
    add_judge_flags(parser)


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Evaluate, and show the win rates."""
    job = AlpacaJob(
        model=given.model,
        output_dir=given.output_dir,
        data=given.data,
        judge=judge_settings(given, given.output_dir),
        annotations=given.annotations,
        outputs=given.outputs,
        name=given.name,
        limit=given.limit,
        answering=Answering(
            given.server, given.server_key_env, given.dtype, given.trust_remote_code
        ),
        sampling=sampling(given),
        overwrite=given.overwrite,
    )
    result = run_alpaca(job, say=say)
    show_rates(given.output_dir)
    return result
