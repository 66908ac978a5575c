"""`orpo generate`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from orpo.cli.console import say
from orpo.evaluate import Sampling, load_answerer
from orpo.jobs.answer_job import answer_prompts, read_prompts

EXAMPLES = """\
examples:
  orpo generate run prompts.jsonl --output answers.jsonl
  orpo generate run "Which number is larger, 318 or 381?"
  orpo generate run prompts.txt --temperature 0.7 --seed 1
  orpo generate run prompts.jsonl --json"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Model, prompts and the way of sampling."""
    parser.add_argument("model", metavar="MODEL", help="model folder, adapter folder or Hub id")
    parser.add_argument(
        "prompts",
        metavar="PROMPTS",
        help=".txt (a prompt a line), .jsonl/.json/.csv/.parquet with a column `prompt`, or a text",
    )
    parser.add_argument("--output", type=Path, help="JSONL file; default stdout")
    parser.add_argument("--raw", action="store_true", help="continue texts without a chat template")
    parser.add_argument("--dtype", default="auto", help="dtype of the weights")
    add_sampling(parser)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """The flags of `Sampling`."""
    parser.add_argument("--max_new_tokens", "--max-new-tokens", type=positive, default=256)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--top_p", "--top-p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--batch_size", "--batch-size", type=positive, default=16)
    parser.add_argument("--trust_remote_code", "--trust-remote-code", action="store_true")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def sampling(given: argparse.Namespace) -> Sampling:
    """`Sampling` from the flags."""
    return Sampling(
        given.max_new_tokens, given.temperature, given.top_p, given.seed, given.batch_size
    )


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Answer every prompt."""
    prompts = read_prompts(given.prompts)
    answerer = load_answerer(
        given.model, dtype=given.dtype, trust_remote_code=given.trust_remote_code
    )
    answers = answer_prompts(answerer, prompts, sampling(given), raw=given.raw)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in answers)
    if given.output is not None:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(lines, encoding="utf-8")
        say(f"{len(answers)} answers: {given.output}")
    elif not given.json:
        print(lines, end="")
    return {"answers": answers}
