"""`orpo tune`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo.commands.console import say
from orpo.commands.flags import ask, given_settings
from orpo.commands.train import refuse_names
from orpo.demo import story
from orpo.errors import ConfigError, RunStopped, require_package
from orpo.experiments.plans import TuneJob, TunePlan
from orpo.experiments.results import read_tuning
from orpo.options import argument, group, training_settings
from orpo.quantities import as_duration
from orpo.runs.files import RECIPE, REPORT

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from orpo.commands.progress import TrainingProgress

EXAMPLES = """\
examples:
  orpo tune
  orpo tune recipe.yaml --minutes 60
  orpo tune --model ./model --dataset pairs.jsonl --held_out 0.1 --trials 20 --steps 100
  orpo tune recipe.yaml --learning_rates 1e-6 1e-4 --alphas 0.05 1 --checker my_checks:grade
  orpo tune recipe.yaml --storage postgresql://host/db --study pairs-of-may    # on each machine

With neither model nor data it tunes on the embedded ones. The same command goes on with what is
in --output_dir. What you started from stays unless the test, on pairs that no trial has seen, finds
another recipe better; it needs trials of 30 steps and 20 held-out prompts to choose by and to test.
Needs pip install 'orpo[tune]'."""

_DEFAULTS = {"output_dir": "orpo-tune", "samples": 200}
_HELD_OUT = 0.1
_MOST = 12
_SECRETS = ("--storage", "--hub_token", "--hub-token", "--model_init_kwargs", "--model-init-kwargs")


@dataclass(frozen=True)
class Options:
    """A recipe to start from, the budget, and a flag for every setting."""

    recipe: str | None = argument("RECIPE.yaml", None, help="settings; flags win")
    plan: TunePlan = group(TunePlan, "the search")
    settings: dict[str, Any] = training_settings(first=3)


def run(options: Options) -> dict[str, Any]:
    """Tune, and print the trials and what is recommended."""
    require_package("optuna", where="orpo tune")
    job = job_of(options)
    from orpo.commands.evaluate import finish, show  # noqa: PLC0415
    from orpo.commands.progress import TrainingProgress  # noqa: PLC0415 - loads torch
    from orpo.experiments.tune import run_tune  # noqa: PLC0415 - loads torch
    from orpo.report.write import write_result_page  # noqa: PLC0415 - loads matplotlib

    shown: list[TrainingProgress] = []

    def progress() -> list[TrainerCallback]:
        for one in shown:
            one.close()  # of a trial that was given up
        shown[:] = [TrainingProgress(told=False)]
        return [*shown]

    overwrite = bool(options.settings.get("overwrite", False))
    try:
        result = run_tune(job, say=say, overwrite=overwrite, callbacks=progress)
    except RunStopped:
        kept = read_tuning(job.folder)
        if kept.recommended is not None:
            write_result_page(kept, job.folder)
        raise
    finally:
        for one in shown:
            one.close()
    found, page = finish(result, job.folder)
    say(page.verdict)
    for table in page.tables:
        left = len(table.rows) - _MOST
        show(table.columns, table.rows[:_MOST], table.title)
        if left > 0:
            say(f"{left} more on the page")
    for line in page.remarks:
        say(line)
    path, recipe = job.folder / REPORT, job.folder / RECIPE
    say(f"page: {path}; it took {as_duration(result.seconds or 0.0)}")
    stays = result.recommended is not None and result.recommended.keep_start
    say(f"next: orpo train {recipe}" + (", which holds what it started from" if stays else ""))
    return {**found, "verdict": page.verdict, "recipe": str(recipe), "report": str(path)}


def job_of(options: Options) -> TuneJob:
    """What a command line asks for."""
    if "objective" in options.settings:
        raise ConfigError("is ORPO here", where="--objective", fix="Leave it out.")
    plan, own = options.plan, given_settings(options.recipe, options.settings)
    demo = not own.get("model") and not own.get("dataset")
    recipe = {**({**story.JOB, **story.SETTINGS, "num_train_epochs": 1} if demo else {}), **own}
    if own.get("held_out"):
        recipe = {k: v for k, v in recipe.items() if k != "eval_dataset" or k in own}
    elif not recipe.get("eval_dataset"):
        recipe["held_out"] = _HELD_OUT
    defaults = {**_DEFAULTS, **(story.TEST if demo else {}), **recipe}
    asked = ask(options.recipe, options.settings, defaults)
    refuse_names(asked)
    if demo and not plan.checker:
        plan = replace(plan, checker=story.CHECKER)
    settings = asked.as_ours()
    command = shlex.join(["orpo", "tune", *_without_secrets(sys.argv[2:])])
    return TuneJob(asked.job, settings, Path(str(settings["output_dir"])), plan, recipe, command)


def _without_secrets(words: list[str]) -> list[str]:
    """The command line without what may be a password or a token."""
    kept: list[str] = []
    for word in words:
        flag, given, _ = word.partition("=")
        if kept and kept[-1] in _SECRETS:
            kept.append("...")
        else:
            kept.append(f"{flag}=..." if flag in _SECRETS and given else word)
    return kept
