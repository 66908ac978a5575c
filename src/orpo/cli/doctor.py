"""`orpo doctor`."""

from __future__ import annotations

import argparse
from typing import Any

from orpo.cli.console import console, rows_table
from orpo.jobs.doctor_job import examine, examine_model

EXAMPLES = """\
examples:
  orpo doctor
  orpo doctor --model Qwen/Qwen2.5-0.5B
  orpo doctor --json"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Optionally a model to look at."""
    parser.add_argument("--model", help="folder or Hub id: what would be done with it")


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Look, and print a table."""
    found = examine()
    if given.model:
        found["model"] = examine_model(given.model)
    rows = []
    for group, value in found.items():
        if isinstance(value, dict):
            rows += [
                [f"{group}: {name}", "not installed" if item is None else str(item)]
                for name, item in value.items()
            ]
        else:
            rows.append([group, str(value)])
    console.print(rows_table(["what", "found"], rows, lines=False))
    return found
