"""`orpo data fix`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from orpo.audit.repair import CHECKS
from orpo.commands.console import say
from orpo.commands.data_options import add_training_settings, training_settings
from orpo.errors import ConfigError
from orpo.jobs.fix_job import DEDUPLICATIONS, FixJob, fix_dataset

EXAMPLES = """\
examples:
  orpo data fix pairs.jsonl clean.jsonl
  orpo data fix pairs.json clean.parquet --deduplicate near
  orpo data fix pairs.jsonl clean.jsonl.gz --balance length --seed 1
  orpo data fix pairs.jsonl clean.jsonl --balance category --balance_ratio 2
  orpo data fix pairs.jsonl train.jsonl --held_out 0.05 --held_out_output test.jsonl
  orpo data fix pairs.jsonl clean.jsonl --model ./model --max_length 1024
  orpo data fix pairs.jsonl clean.jsonl --min_score_margin 1 --drop malformed,empty,low_margin

Rows keep their order and all of their columns. The data set is never changed in place."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The data set, the copy, and what is to be mended."""
    parser.add_argument("dataset", metavar="DATASET", help="a file, a folder or a Hub id")
    parser.add_argument(
        "out", metavar="OUT", type=Path, help="the copy: .jsonl, .jsonl.gz or .parquet"
    )
    _flag(
        parser,
        "drop",
        metavar="CHECKS",
        help=f"checks that drop rows, by comma; default all: {', '.join(CHECKS)}; lines that "
        "cannot be read and answers that make no pair (equal scores, a single one) always go",
    )
    _flag(
        parser,
        "deduplicate",
        choices=DEDUPLICATIONS,
        default="exact",
        help="drop rows that repeat an earlier one word for word (default), or nearly do",
    )
    _flag(
        parser,
        "min_score_margin",
        type=float,
        metavar="X",
        help="least difference of scores: low_margin",
    )
    _flag(
        parser,
        "balance",
        default="",
        metavar="WHAT",
        help="length: the longer answer is the chosen one in half of the pairs; or a column",
    )
    _flag(
        parser,
        "balance_ratio",
        type=float,
        default=1.0,
        metavar="R",
        help="how many times the rows of the smallest category another may have; default 1",
    )
    _flag(
        parser,
        "held_out",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the prompts, e.g. 0.05",
    )
    _flag(
        parser,
        "held_out_output",
        type=Path,
        metavar="FILE",
        help="default beside OUT: clean.held_out.jsonl",
    )
    _flag(
        parser, "ledger", type=Path, metavar="FILE", help="default beside OUT: clean.ledger.jsonl"
    )
    _flag(parser, "seed", type=int, default=42, help="of what is drawn; default 42")
    _flag(parser, "overwrite", action="store_true", help="replace files of these names")
    _flag(parser, "model", help="measure in its tokens, and drop what is longer than --max_length")
    _flag(parser, "tokenizer", help="the tokenizer, if not the model's")
    add_training_settings(
        parser,
        "data_format",
        "pair_rule",
        "max_length",
        "max_prompt_length",
        "chat_template",
        "chat_template_kwargs",
        "trust_remote_code",
    )


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Write the copy, and account for every row."""
    tokenizer = given.tokenizer or given.model
    for name in ("max_length", "max_prompt_length"):
        if name in given and not tokenizer:
            raise ConfigError(
                "needs --model or --tokenizer: tokens are a tokenizer's", where=f"--{name}"
            )
    job = FixJob(
        given.dataset,
        given.out,
        drop=CHECKS if given.drop is None else tuple(given.drop.replace(" ", "").split(",")),
        deduplicate=given.deduplicate,
        min_score_margin=given.min_score_margin,
        balance=given.balance,
        balance_ratio=given.balance_ratio,
        held_out=given.held_out,
        held_out_output=given.held_out_output,
        ledger=given.ledger,
        seed=given.seed,
        overwrite=given.overwrite,
        tokenizer=tokenizer,
    )
    result = fix_dataset(job, training_settings(given, max_length=None))
    for line in result.summary():
        say(line)
    return result.as_dict()


def _flag(parser: argparse.ArgumentParser, name: str, **how: Any) -> None:
    """A flag that may be written with dashes, too."""
    parser.add_argument(*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")), **how)
