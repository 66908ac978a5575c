"""`orpo serve`."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from orpo.commands.console import say
from orpo.jobs.serve_job import ENGINES, ServeJob, hand_over, plan_serve

EXAMPLES = """\
examples:
  orpo serve run
  orpo serve run --engine vllm --port 9000
  orpo serve run --dry_run
  orpo serve run -- --dtype bfloat16        what stands after -- goes to the server

The server is `transformers serve` (pip install 'orpo[serve]') or vLLM; this command becomes it."""

PASSES_ON = True


def configure(parser: argparse.ArgumentParser) -> None:
    """The model, the server, and where it listens."""
    add = parser.add_argument
    add("model", metavar="RUN", help="run folder, model folder, adapter folder or Hub id")
    add("--engine", choices=ENGINES, default="auto", help="default: vLLM where it is installed")
    add("--host", default="localhost")
    add("--port", type=int, default=8000)
    add("--dry_run", "--dry-run", action="store_true", help="show the command, start nothing")


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Become the server, or show how."""
    job = ServeJob(given.model, given.engine, given.host, given.port, tuple(given.passed_on))
    plan = plan_serve(job, dry=given.dry_run, say=say)
    for note in plan.notes:
        say(note)
    say(f"{plan.url}/v1 answers as model {plan.model!r}; try:\n{plan.curl}")
    if not given.dry_run:
        say(f"starting: {shlex.join(plan.command)}")
        hand_over(plan)
    if not given.json:
        print(shlex.join(plan.command))
    return plan.as_dict()
