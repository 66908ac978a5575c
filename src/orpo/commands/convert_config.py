"""`orpo convert-config`."""

from __future__ import annotations

import argparse
from typing import Any

from orpo.commands.console import say
from orpo.jobs.convert_job import ConvertJob, run_convert
from orpo.migrate import PEERS

EXAMPLES = """\
examples:
  orpo convert-config llama_factory.yaml --output recipe.yaml
  orpo convert-config axolotl.yaml --json
  orpo convert-config orpo.sh --from ms-swift --output recipe.yaml
  orpo convert-config train_with_trl.py accelerate.yaml --output recipe.yaml"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Files, and where the recipe goes."""
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="a Python script, a shell script, or YAML or JSON; several of one run",
    )
    parser.add_argument("--from", dest="asked", choices=PEERS, help="whose settings they are")
    parser.add_argument("--output", metavar="RECIPE.yaml", help="default: stdout")
    parser.add_argument("--overwrite", action="store_true", help="replace RECIPE.yaml")


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Convert and write."""
    job = ConvertJob(tuple(given.files), given.asked, given.output, given.overwrite)
    result = run_convert(job, say=say)
    if result.path is not None:
        flags = "".join(f" {flag}" for flag in result.conversion.launch)
        say(f"recipe: {result.path}")
        say(f"next: orpo train {result.path}{flags}")
    elif not given.json:
        print(result.recipe, end="")
    return result.as_dict()
