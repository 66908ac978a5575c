"""`orpo train`."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from orpo.commands.console import before_after_table, console, say
from orpo.commands.dry_run_table import add_dry_run, assumptions, show_dry_run
from orpo.commands.options import add_settings, resolve_settings
from orpo.commands.progress import TrainingProgress
from orpo.errors import ConfigError
from orpo.jobs import run_training
from orpo.jobs.dry_run_job import run_dry_run
from orpo.runs.processes import follow_launcher, launched, rank

EXAMPLES = """\
examples:
  orpo train --model Qwen/Qwen2.5-0.5B --dataset pairs.jsonl --held_out 0.05
  orpo train --model ./model --dataset train.jsonl.gz --eval_dataset test.jsonl.gz \\
      --learning-rate 1e-5 --orpo_alpha 0.2 --num_train_epochs 3 --output_dir run
  orpo train --model ./model --dataset pairs.parquet --lora_r 16 --learning_rate 1e-4
  orpo train recipe.yaml --max_steps 100
  orpo train recipe.yaml --resume
  orpo train recipe.yaml --nproc 4
  orpo train recipe.yaml --dry_run --gpu a100-80 --price_per_hour 2
  accelerate launch --config_file recipes/accelerate/fsdp2.yaml -m orpo train recipe.yaml"""

_DEFAULTS = {"output_dir": "orpo-run"}


def configure(parser: argparse.ArgumentParser) -> None:
    """A recipe and a flag for every setting."""
    parser.add_argument("recipe", nargs="?", metavar="RECIPE.yaml", help="settings; flags win")
    parser.add_argument(
        "--nproc", type=int, metavar="N", help="ranks to start on this machine, one per GPU"
    )
    add_settings(parser)
    add_dry_run(parser)


def execute(given: argparse.Namespace) -> dict[str, Any] | None:
    """Train and say what came of it; of several ranks the first one speaks."""
    assumed = assumptions(given)
    if assumed is not None:
        job, config = resolve_settings(given.recipe, given, _DEFAULTS)
        dry = run_dry_run(job, config, say=say, assumed=assumed)
        show_dry_run(dry)
        return dry.as_dict()
    if launched():
        follow_launcher()
        _require_gpus(given)
    tell = say if rank() == 0 else _unheard
    asked = str(getattr(given, "resume", None))
    if given.recipe is None and asked.endswith((".yaml", ".yml")):
        given.recipe, given.resume = asked, "newest"  # `orpo train --resume RECIPE.yaml`
    job, config = resolve_settings(given.recipe, given, _DEFAULTS)
    progress = TrainingProgress()
    try:
        result = run_training(job, config, say=tell, callbacks=[progress])
    finally:
        progress.close()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if rank() != 0:
        return None
    evaluation = result.evaluation
    if evaluation:
        title = f"{evaluation['after']['pairs']:.0f} held-out pairs"
        console.print(before_after_table(evaluation.get("before", {}), evaluation["after"], title))
    say(f"{result.steps} steps, mean loss {result.train_loss:.4f}")
    say(f"model and run folder: {result.output_dir}")
    say(f"report: {result.report}")
    say(f"next: orpo chat {result.output_dir}")
    return result.as_dict()


def _require_gpus(given: argparse.Namespace) -> None:
    gpus, ranks = torch.cuda.device_count(), given.nproc or 1
    if gpus and ranks > gpus and not getattr(given, "use_cpu", False):
        raise ConfigError(f"{ranks} ranks for {gpus} GPUs", where="--nproc")


def _unheard(_line: str) -> None:
    """What ranks after the first have to say, the first one says."""
