"""`orpo tune`."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from orpo.commands.console import console, figures_table, say
from orpo.commands.flags import ask, given_settings
from orpo.commands.train import refuse_names
from orpo.demo import story
from orpo.errors import ConfigError, RunStopped, require_package
from orpo.evaluate.intervals import Interval
from orpo.experiments.plans import TuneJob, TunePlan
from orpo.experiments.results import STATES, TrialResult, TuningResult, read_tuning
from orpo.options import argument, group, training_settings
from orpo.quantities import as_duration
from orpo.runs.files import RECIPE
from orpo.runs.typed import plain

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
in --output_dir. Needs pip install 'orpo[tune]'."""

_DEFAULTS = {"output_dir": "orpo-tune", "samples": 200}
_HELD_OUT = 0.1
_MOST = 12
_MEASURES = {
    "score": ("score", 1, "", 4),
    "correct_answers": ("right answers", 100, " %", 1),
    "preference_accuracy": ("prefers the chosen answer", 100, " %", 1),
}
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
    page, recipe = write_result_page(result, job.folder), job.folder / RECIPE
    console.print(_table(result))
    for line in _lines(result):
        say(_minus(line))
    say(f"page: {page}; it took {as_duration(result.seconds or 0.0)}")
    say(f"next: orpo train {recipe}")
    return {**plain(result), "recipe": str(recipe), "report": str(page)}


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
        elif flag in _SECRETS and given:
            kept.append(f"{flag}=...")
        else:
            kept.append(word)
    return kept


def _table(result: TuningResult) -> Table:
    """The best trials, and the one that the search started from."""
    trials, recommended = result.trials, result.recommended
    table = figures_table(
        f"trials of {result.steps} steps, on {result.held_out['choosing']} held-out pairs",
        *("rate", "lambda", "score", "less than the best", "prefers", ""),
        named=False,
    )
    shown = [*trials[:_MOST], *(one for one in trials[_MOST:] if one.start)]
    for one in shown:
        best = recommended is not None and one.number == recommended.trial
        table.add_row(*map(_minus, _cells(one, best=best)))
    if len(trials) > len(shown):
        table.caption = f"{len(trials) - len(shown)} more on the page"
    return table


def _cells(one: TrialResult, *, best: bool) -> list[str]:
    marks = {"best": best, "start": one.start, "cannot tell": one.near and not best}
    score = "" if one.score is None else f"{one.score:.4f}"
    cells = [f"{one.learning_rate:.3g}", f"{one.orpo_alpha:.3g}", score]
    behind, share = one.behind_the_best, one.preference_accuracy
    if behind is None or share is None:
        return [*cells, "", "", f"left at {one.steps}" if one.state == "pruned" else one.state]
    less = "" if best else f"{behind.value:.3f} ({_ends(behind, 1, 3)})"
    return [*cells, less, f"{100 * share:.1f} %", ", ".join(mark for mark in marks if marks[mark])]


def _lines(result: TuningResult) -> Iterator[str]:
    """What came of it, in words."""
    account, found = result.account, result.recommended
    told = [f"{account[state]} {word}" for state, word in STATES.items() if account[state]]
    yield f"trials: {', '.join(told)}"
    if found is None:
        return
    yield f"cannot be told apart from the best: {found.band_words}"
    for name, which in found.edges:
        flag = {"learning_rate": "--learning_rates", "orpo_alpha": "--alphas"}[name]
        yield f"the best {name} lies at the {which} end of its range: widen it with {flag}"
    if result.comparison is not None:
        measures = result.comparison.measures
        pairs = measures["score"].change.n
        yield f"the test, on {pairs} pairs that no trial has seen, start -> best of the trials:"
        for name, (label, scale, unit, digits) in _MEASURES.items():
            if name in measures:
                one = measures[name]
                before, after = (
                    f"{scale * side.value:.{digits}f}" for side in (one.start, one.best)
                )
                change = f"{scale * one.change.value:+.{digits}f}"
                ends = f"({_ends(one.change, scale, digits)}): {one.change.verdict}"
                yield f"  {label}: {before}{unit} -> {after}{unit}, {change} {ends}"
    yield found.why


def _ends(interval: Interval, scale: float, digits: int) -> str:
    ends = (interval.low, interval.high)
    return " to ".join(f"{scale * end:+.{digits}f}" if isfinite(end) else "?" for end in ends)


def _minus(text: str) -> str:
    """Minus signs, but in exponents."""
    return re.sub(r"(?<![e\d])-(?=\d)", "−", text)
