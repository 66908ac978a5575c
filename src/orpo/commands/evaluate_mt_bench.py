"""`orpo evaluate mt-bench`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orpo.commands.console import console, rows_table, say
from orpo.commands.judge_options import add_judge_flags, judge_settings
from orpo.evaluate import Sampling
from orpo.evaluate.mt_bench.protocol import MAX_NEW_TOKENS
from orpo.evaluate.settings import positive
from orpo.jobs.mt_bench_job import MTBenchJob, run_mt_bench

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


_MODELS = 4
"""Columns that a terminal has room for."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Model, data, judge, and what there is already."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="model folder, adapter folder or Hub id")
    add("--data", type=Path, metavar="FOLDER", help="the benchmark's files; fetched if absent")
    add("--output_dir", "--output-dir", type=Path, default=Path("orpo-eval-mt-bench"))
    add("--overwrite", action="store_true", help="replace what other settings left there")
    add("--name", help="what the model is called in files and on the page")
    add(
        "--also",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="FastChat's judgments of other models, or FILE=NAME,NAME for some of them",
    )
    add("--answers", type=Path, metavar="FILE", help="FastChat's answers, instead of asking MODEL")
    add("--judgments", type=Path, metavar="FILE", help="FastChat's judgments: nobody is asked")
    add("--limit", type=positive, metavar="N", help="only N questions, spread over all of them")
    asking = parser.add_argument_group("asking the model")
    add = asking.add_argument
    add("--server", metavar="URL", help="an OpenAI-compatible server that answers as MODEL")
    add("--server_key_env", "--server-key-env", default="OPENAI_API_KEY", metavar="NAME")
    add("--max_new_tokens", "--max-new-tokens", type=positive, default=MAX_NEW_TOKENS)
    add("--seed", type=int, default=42, help="of drawn answers; temperatures are the protocol's")
    add("--batch_size", "--batch-size", type=positive, default=16)
    add("--dtype", default="auto", help="dtype of the weights")
    add("--trust_remote_code", "--trust-remote-code", action="store_true")
    add_judge_flags(parser)


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Evaluate, and show the scores by category."""
    job = MTBenchJob(
        model=given.model,
        output_dir=given.output_dir,
        data=given.data,
        judge=judge_settings(given, given.output_dir),
        answers=given.answers,
        judgments=given.judgments,
        also=tuple(given.also),
        name=given.name,
        limit=given.limit,
        server=given.server,
        server_key_env=given.server_key_env,
        sampling=Sampling(given.max_new_tokens, seed=given.seed, batch_size=given.batch_size),
        dtype=given.dtype,
        trust_remote_code=given.trust_remote_code,
        overwrite=given.overwrite,
    )
    result = run_mt_bench(job, say=say)
    _show(result, given.output_dir)
    return result


def _show(result: Mapping[str, Any], folder: Path) -> None:
    from orpo.report.kinds import read_page  # noqa: PLC0415 - loads matplotlib

    page = read_page(folder)
    table = page.tables[0]
    width = 1 + _MODELS
    rows = [list(row[:width]) for row in table.rows]
    console.print(rows_table(list(table.columns[:width]), rows, lines=False))
    left = len(table.columns) - width
    more = f"{left} more on the page" if left > 0 else ""
    trust = str(result.get("trust", {}).get("sentence", ""))
    lines = (more, page.verdict, *page.remarks, trust, f"page: {folder / 'report.html'}")
    for line in dict.fromkeys(line for line in lines if line):
        say(line)
