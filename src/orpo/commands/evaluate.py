"""`orpo evaluate ACTION`: what there is, and what all of them do at the end."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo.commands.actions import add_actions, run_action
from orpo.commands.console import console, rows_table, say

if TYPE_CHECKING:
    from orpo.evaluate.results import Result
    from orpo.report.page import Page

ACTIONS = {
    "preference": "held-out pairs scored: accuracy, margins and calibration, with intervals",
    "win-rate": "two models on your own prompts: a judge in both orders, with length control",
    "alpaca": "AlpacaEval 2.0: answers in the official format, win rate and LC win rate",
    "mt-bench": "MT-Bench: 80 two-turn questions, graded 1 to 10, by category",
    "harness": "benchmarks through lm-evaluation-harness",
}

EXAMPLES = """\
examples:
  orpo evaluate preference run --dataset heldout.jsonl
  orpo evaluate win-rate run --baseline base-model --prompts prompts.jsonl --judge gpt-4o
  orpo evaluate alpaca run --data alpaca_eval --judge gpt-4o
  orpo evaluate mt-bench run --data mt_bench --judge gpt-4o
  orpo evaluate harness run --tasks ifeval

`orpo evaluate ACTION --help` shows its options and examples; --json works with each of them."""


def configure(parser: argparse.ArgumentParser) -> None:
    """One sub-command for each action."""
    add_actions(parser, "evaluate", ACTIONS)


def execute(given: argparse.Namespace) -> Mapping[str, Any] | int | None:
    """Run the action."""
    return run_action(given)


def finish(result: Result, folder: Path) -> tuple[dict[str, Any], Page]:
    """Write evaluation.json, the page and its figures; (what --json prints, the page)."""
    from orpo.report.kinds import page_of  # noqa: PLC0415 - matplotlib loads in seconds
    from orpo.report.write import write_page  # noqa: PLC0415
    from orpo.runs.files import EVALUATION, write_json  # noqa: PLC0415
    from orpo.runs.typed import plain  # noqa: PLC0415

    found: dict[str, Any] = plain(result)
    write_json(folder / EVALUATION, found)
    page = page_of(result, folder)
    write_page(page, folder)
    return found, page


def show(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """A table of the page, for a terminal."""
    table = rows_table([*columns], [[*row] for row in rows], lines=False)
    table.title, table.title_justify, table.title_style = title or None, "left", "bold"
    console.print(table)


def say_page(page: Page, folder: Path, *more: str) -> None:
    """The page's words, each once, and where it is."""
    lines = (*more, page.verdict, *page.remarks, f"page: {folder / 'report.html'}")
    for line in dict.fromkeys(line for line in lines if line):
        say(line)
