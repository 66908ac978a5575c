"""`orpo merge`."""

from __future__ import annotations

import argparse
from typing import Any

from orpo.commands.console import say
from orpo.jobs import merge_adapter

EXAMPLES = """\
examples:
  orpo merge run merged
  orpo merge run merged --dtype bfloat16"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The adapter's folder and a new one."""
    parser.add_argument("run", metavar="RUN", help="folder with a LoRA adapter")
    parser.add_argument("out", metavar="OUT", help="new folder for the merged model")
    parser.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16")
    )


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Merge and save."""
    folder = merge_adapter(given.run, given.out, dtype=given.dtype)
    say(f"merged model: {folder}")
    return {"model": str(folder)}
