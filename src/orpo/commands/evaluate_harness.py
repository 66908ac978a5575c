"""`orpo evaluate harness`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from orpo.commands.console import console, rows_table, say
from orpo.evaluate.harness import HarnessPlan
from orpo.evaluate.settings import positive
from orpo.jobs.harness_job import HarnessJob, run_harness
from orpo.runs import REPORT

EXAMPLES = """\
examples:
  orpo evaluate harness run --tasks ifeval --apply_chat_template
  orpo evaluate harness run --tasks arc_easy,hellaswag --num_fewshot 5 --baseline base-model
  orpo evaluate harness run --tasks my_task --include_path my-tasks --limit 100 --json

Needs the extra: pip install 'orpo[harness]'. Most tasks load their data from the Hub; those in
--include_path may use files of your own. The same command goes on where it was broken off."""

_DEFAULT = Path("orpo-eval-harness")


def configure(parser: argparse.ArgumentParser) -> None:
    """The model, the tasks, and what to compare with."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="run folder, model folder, adapter folder or Hub id")
    add("--tasks", required=True, help="names of tasks, groups or tags, with commas between them")
    add("--num_fewshot", "--num-fewshot", type=int, help="examples; default as the task has it")
    add("--limit", type=float, help="questions of each task, or a share below 1; default all")
    add("--include_path", "--include-path", metavar="DIR", help="tasks of your own, as YAML")
    add(
        "--apply_chat_template",
        "--apply-chat-template",
        action="store_true",
        help="put questions into the chat template",
    )
    add("--baseline", metavar="MODEL", help="compare with this model")
    add("--output_dir", "--output-dir", type=Path, default=_DEFAULT, help=f"default {_DEFAULT}")
    add("--overwrite", action="store_true", help="replace another evaluation in output_dir")
    add("--batch_size", "--batch-size", type=positive, default=8, help="default 8")
    add("--dtype", default="auto", help="dtype of the weights")
    add("--trust_remote_code", "--trust-remote-code", action="store_true")
    add(
        "--run_unsafe_code",
        "--run-unsafe-code",
        action="store_true",
        help="allow tasks that run code which the model wrote",
    )


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Measure, and show a table."""
    plan = HarnessPlan(
        tasks=tuple(dict.fromkeys(name.strip() for name in given.tasks.split(","))),
        num_fewshot=given.num_fewshot,
        limit=given.limit,
        include_path=given.include_path,
        apply_chat_template=given.apply_chat_template,
        batch_size=given.batch_size,
        run_unsafe_code=given.run_unsafe_code,
    )
    job = HarnessJob(
        model=given.model,
        plan=plan,
        baseline=given.baseline,
        output_dir=given.output_dir,
        overwrite=given.overwrite,
        dtype=given.dtype,
        trust_remote_code=given.trust_remote_code,
    )
    found = run_harness(job, say=say)
    for note in found["notes"]:
        say(f"the harness says: {note}")
    from orpo.report.kinds import read_page  # noqa: PLC0415 - loads matplotlib

    (table,) = read_page(given.output_dir).tables
    console.print(rows_table(list(table.columns), [list(row) for row in table.rows], lines=False))
    say(f"page: {given.output_dir / REPORT}")
    return found
