"""`orpo doctor`."""

from __future__ import annotations

import argparse
from typing import Any

from orpo.commands.console import console, rows_table, say
from orpo.commands.doctor_table import found_rows
from orpo.commands.main import print_json
from orpo.errors import ConfigError, OrpoError
from orpo.jobs.doctor_job import examine, examine_model
from orpo.jobs.doctor_run import Diagnosis, examine_folder
from orpo.jobs.doctor_words import next_commands, verdict

EXAMPLES = """\
examples:
  orpo doctor
  orpo doctor --model Qwen/Qwen2.5-0.5B
  orpo doctor run
  orpo doctor run/checkpoint-200 --json

With RUN the exit code is 0 if all that is there is sound, 1 if something is damaged."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Optionally a run folder or a model to look at."""
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="run folder, checkpoint or saved model: what is sound, what can be done with it",
    )
    parser.add_argument("--model", help="folder or Hub id: what would be done with it")


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Look, and print a table."""
    if given.run and given.model:
        raise ConfigError("not both at once", where="RUN and --model", fix="Give one of them.")
    return _of_run(given) if given.run else _of_machine(given)


def _of_machine(given: argparse.Namespace) -> dict[str, Any]:
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


def _of_run(given: argparse.Namespace) -> dict[str, Any]:
    found = examine_folder(given.run)
    console.print(rows_table(["what", "found"], found_rows(found), lines=False))
    for line in found.notes:
        say(f"note: {line}")
    for line in found.problems:
        say(f"damaged: {line}")
    say(verdict(found))
    commands = next_commands(found)
    for line in commands:
        say(f"next: {line}")
    result = {**found.as_dict(), "verdict": verdict(found), "next": commands}
    if found.problems:
        if given.json:
            print_json(result)
        raise _damaged(found)
    return result


def _damaged(found: Diagnosis) -> OrpoError:
    more = len(found.problems) - 1
    rest = f", and {more} more" if more else ""
    return OrpoError(f"{found.folder}: {found.problems[0]}{rest}")
