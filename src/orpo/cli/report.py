"""`orpo report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from orpo.cli.console import say
from orpo.report import write_report

EXAMPLES = """\
examples:
  orpo report run
  orpo report run --output page.html"""


def configure(parser: argparse.ArgumentParser) -> None:
    """A run folder, and where the page goes."""
    parser.add_argument("run", metavar="RUN", help="run folder, the output_dir of `orpo train`")
    parser.add_argument("--output", type=Path, help="HTML file; default RUN/report.html")


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Draw the page."""
    page = write_report(given.run, given.output)
    say(f"report: {page}")
    return {"report": str(page)}
