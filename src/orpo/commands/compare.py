"""`orpo compare`."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from orpo.commands.compare_table import claim_lines, cost_table, outcome_table
from orpo.commands.console import console, say
from orpo.commands.judge_options import add_judge_flags, judge_settings
from orpo.commands.options import add_settings, resolve_settings
from orpo.config import ORPOConfig
from orpo.demo.story import ASSETS
from orpo.errors import ConfigError
from orpo.experiments.compare import BUDGETS, METHODS, read_names
from orpo.jobs.compare.processes import cores
from orpo.jobs.compare_job import CompareJob, run_compare

EXAMPLES = """\
examples:
  orpo compare
  orpo compare --model ./model --dataset train.jsonl --eval_dataset test.jsonl \\
      --methods orpo,sft,sft+dpo --max_steps 500 --seeds 3 --output_dir comparison
  orpo compare --model ./model --dataset pairs.jsonl --held_out 0.1 --learning_rate 1e-5 \\
      --dpo_learning_rate 5e-7 --budget steps --no_sensitivity --lora_r 16
  orpo compare --model ./model --dataset pairs.jsonl --held_out 0.1 --checker my_checks:grade

With neither model nor data it runs on the embedded ones, in about ten minutes on two cores.
What is finished in --output_dir is not run again; --max_steps are those of ORPO's run."""

_DEMO: dict[str, Any] = {
    "model": str(ASSETS / "base"),
    "dataset": [str(ASSETS / "pairs" / "train.jsonl.gz")],
    "eval_dataset": str(ASSETS / "pairs" / "heldout.jsonl.gz"),
    "samples": 10**6,
    "sample_tokens": 64,
    "learning_rate": 4e-4,
    "orpo_alpha": 0.5,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "max_steps": 160,
    "max_length": 256,
    "use_cpu": True,
}
_DEMO_RATES = {"dpo": 4e-5}
_DEMO_CHECKER = "orpo.demo.story:grade"
_DEFAULTS = {"output_dir": "orpo-compare", "samples": 200}
_SETTINGS = {f.name for f in fields(ORPOConfig) if f.init}


def configure(parser: argparse.ArgumentParser) -> None:
    """What is compared, and a flag for every setting of the training."""
    add = parser.add_argument_group("the comparison").add_argument
    add("--methods", default=",".join(METHODS), help="orpo, sft, sft+dpo, by comma; default all")
    add(
        "--budget",
        default="both",
        choices=("steps", "flops", "both"),
        help="as many optimizer steps, or as many FLOPs, as ORPO's run; default both",
    )
    add("--seeds", type=int, default=3, help="runs of each method; default 3")
    for name in ("sft", "dpo"):
        flags = (f"--{name}_learning_rate", f"--{name}-learning-rate")
        text = "ORPO's" if name == "sft" else "a tenth of ORPO's"
        add(*flags, type=float, metavar="LR", help=f"default {text}")
    add(
        "--no_sensitivity",
        "--no-sensitivity",
        action="store_true",
        help="leave out the short runs at other learning rates and lambdas",
    )
    add("--checker", metavar="MODULE:FUNCTION", help="(row, answer) -> orpo.evaluate.Grade")
    add("--at_once", "--at-once", type=int, help="runs at a time; default 1, on the demo 2")
    add_judge_flags(parser)
    add_settings(parser)


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Compare, and print the table and what became of the paper's claims."""
    result = run_compare(_job(given), say=say, overwrite=bool(getattr(given, "overwrite", False)))
    for budget in result["budgets"]:
        console.print(outcome_table(result, budget))
        console.print(cost_table(result, budget))
    for line in claim_lines(result):
        say(line)
    say(f"page: {result['report']}; it took {result['seconds']:.0f} s")
    return result


def _job(given: argparse.Namespace) -> CompareJob:
    flags = vars(given)
    for name, fix in (("objective", "Use --methods."), ("resume", "It goes on by itself.")):
        if name in flags:
            raise ConfigError("is not for a comparison", where=f"--{name}", fix=fix)
    demo = not flags.get("model") and not flags.get("dataset")
    defaults = {**_DEFAULTS, **(_DEMO if demo else {})}
    if flags.get("held_out"):
        defaults.pop("eval_dataset", None)
    train, config = resolve_settings(None, given, defaults)
    settings = {k: v for k, v in {**defaults, **flags}.items() if k in _SETTINGS}
    if settings.pop("beta", None) is not None:  # TRL's name for it, which SFT and DPO refuse
        settings["orpo_alpha"] = config.orpo_alpha
    rates = {"sft": given.sft_learning_rate, "dpo": given.dpo_learning_rate}
    own = {name: rate for name, rate in rates.items() if rate is not None}
    folder = Path(str(config.output_dir))
    return CompareJob(
        train=train,
        settings=settings,
        folder=folder,
        methods=read_names(given.methods, METHODS, "--methods"),
        budgets=BUDGETS if given.budget == "both" else (given.budget,),
        seeds=given.seeds,
        learning_rates={**(_DEMO_RATES if demo else {}), **own},
        sensitivity=not given.no_sensitivity,
        checker=given.checker or (_DEMO_CHECKER if demo else ""),
        at_once=given.at_once or _at_once(demo=demo),
        judge=judge_settings(given, folder),
        command=shlex.join(["orpo", "compare", *sys.argv[2:]]),
    )


def _at_once(*, demo: bool) -> int:
    """The demo's model is so small that one run does not fill two cores."""
    return 2 if demo and cores() > 1 and not torch.accelerator.is_available() else 1
