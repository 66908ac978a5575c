"""`orpo data show`."""

from __future__ import annotations

import argparse
from typing import Any

from rich.text import Text

from orpo.commands.console import Screen
from orpo.commands.data_options import add_training_settings, training_settings
from orpo.commands.token_picture import LEGEND, draw_row
from orpo.errors import ConfigError
from orpo.jobs.show_job import ShowJob, ShownRow, show_rows

EXAMPLES = """\
examples:
  orpo data show pairs.jsonl --model ./model
  orpo data show pairs.jsonl --tokenizer Qwen/Qwen2.5-0.5B --row 17 --row pairs.jsonl:230
  orpo data show pairs.parquet --model ./model --max_length 512 --truncation keep_end
  orpo data show pairs.jsonl --model ./model --json
  FORCE_COLOR=1 orpo data show pairs.jsonl --model ./model -n 50 | less -R

Colours are left out where NO_COLOR is set or the output is no terminal."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The data set, whose tokens, which rows, and the settings of the training that matter."""
    parser.add_argument("dataset", metavar="DATASET", help="a file, a folder or a Hub id")
    parser.add_argument("--model", help="whose tokenizer to use: a folder or a Hub id")
    parser.add_argument("--tokenizer", help="the tokenizer, if not the model's")
    parser.add_argument("-n", dest="count", type=int, default=3, help="how many rows; default 3")
    parser.add_argument(
        "--row",
        action="append",
        default=[],
        metavar="N",
        help="a row by its number, from 1, or by its place (pairs.jsonl:7); may be given again",
    )
    add_training_settings(
        parser,
        "data_format",
        "pair_rule",
        "max_length",
        "max_prompt_length",
        "truncation",
        "nll_scope",
        "chat_template",
        "chat_template_kwargs",
        "trust_remote_code",
    )


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Read the rows; draw them on stdout, or give them to `--json`."""
    name = given.tokenizer or given.model
    if not name:
        raise ConfigError(
            "is needed, or --tokenizer: tokens are a tokenizer's",
            where="--model",
            fix="Add --model NAME, the model to be trained.",
        )
    job = ShowJob(given.dataset, name, given.count, tuple(given.row))
    shown = show_rows(job, training_settings(given))
    if not given.json:
        _draw(shown)
    return {"dataset": given.dataset, "tokenizer": name, "rows": [row.as_dict() for row in shown]}


def _draw(rows: list[ShownRow]) -> None:
    """The picture is what was asked for, not prose about it: it goes to stdout, for `less`."""
    console = Screen(highlight=False, emoji=False)
    for row in rows:
        for line in draw_row(row, console.width):
            console.print(line, soft_wrap=True, end="\n")
        console.print()
    console.print(Text(LEGEND, "dim"), soft_wrap=True)
