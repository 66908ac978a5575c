"""`orpo tune`."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from orpo.commands.console import console, say
from orpo.commands.options import add_settings, given_settings, resolve_settings
from orpo.commands.progress import TrainingProgress
from orpo.commands.tune_table import result_lines, trial_table
from orpo.config import ORPOConfig
from orpo.demo.story import ASSETS
from orpo.errors import ConfigError
from orpo.jobs.tune_job import TuneJob, run_tune

EXAMPLES = """\
examples:
  orpo tune
  orpo tune recipe.yaml --minutes 60
  orpo tune --model ./model --dataset pairs.jsonl --held_out 0.1 --trials 20 --steps 100
  orpo tune recipe.yaml --learning_rates 1e-6 1e-4 --alphas 0.05 1 --checker my_checks:grade
  orpo tune recipe.yaml --storage postgresql://host/db --study pairs-of-may    # on each machine

With neither model nor data it tunes on the embedded ones. The same command goes on with what is
in --output_dir. Needs pip install 'orpo[tune]'."""

_DEMO: dict[str, Any] = {
    "model": str(ASSETS / "base"),
    "dataset": [str(ASSETS / "pairs" / "train.jsonl.gz")],
    "eval_dataset": str(ASSETS / "pairs" / "heldout.jsonl.gz"),
    "learning_rate": 4e-4,
    "orpo_alpha": 0.5,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "num_train_epochs": 1,
    "max_length": 256,
    "use_cpu": True,
}
_DEMO_TEST = {"samples": 10**6, "sample_tokens": 64}
_DEMO_CHECKER = "orpo.demo.story:grade"
_DEFAULTS = {"output_dir": "orpo-tune", "samples": 200}
_HELD_OUT = 0.1
_MINUTES = 10.0
_SECRETS = ("--storage", "--hub_token", "--hub-token", "--model_init_kwargs", "--model-init-kwargs")
_SETTINGS = {f.name for f in fields(ORPOConfig) if f.init}


def configure(parser: argparse.ArgumentParser) -> None:
    """A recipe to start from, the budget, and a flag for every setting."""
    parser.add_argument("recipe", nargs="?", metavar="RECIPE.yaml", help="settings; flags win")
    add = parser.add_argument_group("the search").add_argument
    add("--minutes", type=float, help=f"time for everything; default {_MINUTES:.0f}")
    add("--trials", type=int, metavar="N", help="trials of the study; default as time allows")
    add("--steps", type=int, metavar="S", help="steps of a trial; default as time allows")
    for name, text in (("learning_rates", "of learning rates"), ("alphas", "of lambdas")):
        flags = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        add(*flags, type=float, nargs=2, metavar=("LOW", "HIGH"), help=f"range {text}")
    add("--storage", default="", help="URL or file of a study that several machines share")
    add("--study", default="orpo", metavar="NAME", help="its name there; default orpo")
    add("--checker", metavar="MODULE:FUNCTION", help="(row, answer) -> orpo.evaluate.Grade")
    add_settings(parser)


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Tune, and print the trials and what is recommended."""
    shown: list[TrainingProgress] = []

    def progress() -> list[TrainerCallback]:
        shown[:] = [TrainingProgress()] if console.is_terminal else []
        return [*shown]

    job = job_of(given)
    overwrite = bool(getattr(given, "overwrite", False))
    try:
        result = run_tune(job, say=say, overwrite=overwrite, callbacks=progress)
    finally:
        for one in shown:
            one.close()
    console.print(trial_table(result))
    for line in result_lines(result):
        say(line)
    say(f"page: {result['report']}; it took {result['seconds']:.0f} s")
    say(f"next: orpo train {result['recipe']}")
    return result


def job_of(given: argparse.Namespace) -> TuneJob:
    """What a command line asks for.

    Raises:
        ConfigError: A value that cannot be meant.
    """
    if "objective" in vars(given):
        raise ConfigError("is ORPO here", where="--objective", fix="Leave it out.")
    own = given_settings(given.recipe, given)
    demo = not own.get("model") and not own.get("dataset")
    recipe = {**(_DEMO if demo else {}), **own}
    if own.get("held_out"):
        recipe = {k: v for k, v in recipe.items() if k != "eval_dataset" or k in own}
    elif not recipe.get("eval_dataset"):
        recipe["held_out"] = _HELD_OUT
    defaults = {**_DEFAULTS, **(_DEMO_TEST if demo else {}), **recipe}
    train, config = resolve_settings(given.recipe, given, defaults)
    settings = {k: v for k, v in {**defaults, **own}.items() if k in _SETTINGS}
    if settings.pop("beta", None) is not None:  # TRL's name for it
        settings["orpo_alpha"] = config.orpo_alpha
    minutes = given.minutes
    if minutes is None and given.trials is None:
        minutes = _MINUTES
    return TuneJob(
        train=train,
        settings=settings,
        folder=Path(str(config.output_dir)),
        recipe=recipe,
        minutes=minutes,
        trials=given.trials,
        steps=given.steps,
        learning_rates=_ends(given.learning_rates),
        alphas=_ends(given.alphas),
        storage=given.storage,
        study=given.study,
        checker=given.checker or (_DEMO_CHECKER if demo else ""),
        command=shlex.join(["orpo", "tune", *_without_secrets(sys.argv[2:])]),
    )


def _ends(given: list[float] | None) -> tuple[float, float] | None:
    return None if given is None else (given[0], given[1])


def _without_secrets(words: list[str]) -> list[str]:
    """The command line without what may be a password or a token."""
    kept: list[str] = []
    for word in words:
        flag, given, _ = word.partition("=")
        if kept and kept[-1] in _SECRETS:
            kept.append("...")
        elif flag in _SECRETS and given:
            kept.append(f"{flag}=...")
        else:
            kept.append(word)
    return kept
