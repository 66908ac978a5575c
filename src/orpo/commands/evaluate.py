"""`orpo evaluate preference|win-rate|alpaca|mt-bench|harness`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from orpo.commands.actions import add_actions, run_action

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


def execute(given: argparse.Namespace) -> Mapping[str, Any] | None:
    """Run the action."""
    return run_action(given)
