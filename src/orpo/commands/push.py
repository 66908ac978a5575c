"""`orpo push`."""

from __future__ import annotations

import argparse
from typing import Any

from rich.markup import escape

from orpo.commands.console import console, say
from orpo.jobs.push_job import PushJob, PushPlan, plan_push, pushable, run_push
from orpo.terminal import spelled_out

EXAMPLES = """\
examples:
  orpo push run me/my-model --dry_run
  orpo push run me/my-model --private --license apache-2.0
  orpo push lora-run me/my-model --merge
  orpo push lora-run me/my-adapter --base_model Qwen/Qwen2.5-0.5B

The token is that of `hf auth login` or HF_TOKEN; HF_ENDPOINT names another Hub. What goes up: the
model or adapter, its tokenizer, the card with the numbers of the run, the recipe without paths of
this machine, and the curves. Rows, answers and checkpoints stay here."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The run, the repository, and what the run does not know."""
    add = parser.add_argument
    add("run", metavar="RUN", help="run folder")
    add("repo", metavar="REPO", help="owner/name on the Hub; made if it is not there")
    add("--private", action="store_true", help="make the repository private")
    add("--revision", metavar="BRANCH", help="branch; default main")
    add("--merge", action="store_true", help="push the adapter merged into its base model")
    add("--base_model", "--base-model", metavar="ID", help="Hub id of the base model")
    add("--license", metavar="ID", help="licence, such as apache-2.0; default the base model's")
    add("--message", help="of the commit")
    add("--overwrite", action="store_true", help="replace another model that is there")
    add("--dry_run", "--dry-run", action="store_true", help="show it all, send nothing")


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Push, or show what would be pushed."""
    job = PushJob(
        run=given.run,
        repo=given.repo,
        private=given.private,
        revision=given.revision,
        merge=given.merge,
        base_model=given.base_model,
        licence=given.license,
        message=given.message,
        overwrite=given.overwrite,
    )
    if not given.dry_run:
        return run_push(job, say=say)
    plan = plan_push(pushable(job))
    if not given.json:
        _show(plan)
    return plan.as_dict()


def _show(plan: PushPlan) -> None:
    print(plan.card)
    told = plan.as_dict()
    kind = "private repository" if plan.job.private else "repository"
    console.print(f"[bold]{kind} {escape(plan.job.repo)}, branch {escape(told['revision'])}[/bold]")
    for one in plan.files:
        size = "after merging" if one.size is None else f"{one.size:,} bytes"
        console.print(f"  {escape(spelled_out(one.name)):<32} {size}", highlight=False)
    console.print(f"commit: {escape(plan.message)}", highlight=False)
    for note in plan.notes:
        say(note)
    say("dry run: nothing was sent")
