"""`orpo report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from orpo.commands.console import say
from orpo.report import write_report

EXAMPLES = """\
examples:
  orpo report run
  orpo report run --output page.html
  orpo report run --figures pictures
  orpo report orpo-eval-mt-bench"""


def configure(parser: argparse.ArgumentParser) -> None:
    """A folder, and where the page and its pictures go."""
    parser.add_argument(
        "run",
        metavar="RUN",
        help="the output_dir of `orpo train`, `orpo evaluate` or `orpo compare`",
    )
    parser.add_argument("--output", type=Path, help="HTML file; default RUN/report.html")
    parser.add_argument(
        "--figures",
        type=Path,
        metavar="DIR",
        help="write the pictures there as SVG and PNG; default none for a run, RUN/figures "
        "for an evaluation or a comparison",
    )


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Draw the page."""
    page = write_report(given.run, given.output, given.figures)
    say(f"report: {page}")
    result = {"report": str(page)}
    if given.figures is not None:
        say(f"figures: {given.figures}")
        result["figures"] = str(given.figures)
    return result
