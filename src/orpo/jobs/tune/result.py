"""What a tuning found, as it stands in evaluation.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from orpo.evaluate.intervals import mean_interval, paired_interval
from orpo.evaluate.preference.measures import change_of
from orpo.experiments.comparison import Outcome
from orpo.jobs.tune.choice import Choice, told_trials
from orpo.jobs.tune.folder import KIND
from orpo.jobs.tune.runs import Runs
from orpo.jobs.tune.score import pair_scores
from orpo.jobs.tune.spec import TuneJob
from orpo.jobs.tune.study import Study, Tried, public_storage, require_optuna
from orpo.jobs.tune.words import band_words, verdict_of
from orpo.runs.typed import plain
from orpo.train.recorder import versions

__all__ = ["measures_of", "result_of"]


def result_of(
    job: TuneJob,
    study: Study,
    runs: Runs,
    tried: Sequence[Tried],
    choice: Choice,
    comparison: dict[str, Any] | None,
) -> dict[str, Any]:
    """Everything that the page shows.

    Args:
        job: What was tuned.
        study: Its study.
        runs: Where its runs took place.
        tried: All trials.
        choice: What they say.
        comparison: What the test says; None without one.
    """
    told = told_trials(tried, choice)
    verdict = verdict_of(study.start, choice, comparison)
    values = study.start if verdict["keep_start"] else choice.best.values
    return {
        "kind": KIND,
        "settings": study.details["settings"],
        "model": job.train.model,
        "dataset": (job.train.dataset or [""])[0],
        "storage": public_storage(job),
        "study": job.study,
        "command": job.command,
        "steps": study.steps,
        "full_steps": runs.full_steps,
        "batch": runs.batch,
        "seed": study.details["settings"]["seed"],
        "held_out": {**runs.sizes, "prompts": len(set(runs.prompts))},
        "space": study.space.as_dict(),
        "start": study.start.as_dict(),
        "trials": told,
        "account": _account(told),
        "recommended": {
            **_recommended(choice, study),
            "values": values.as_dict(),
            **verdict,
        },
        "comparison": comparison,
        "checked": bool(job.checker),
        "minutes": job.minutes,
        "machine": _machine(),
        "versions": {**versions(), "optuna": require_optuna().__version__},
    }


def _recommended(choice: Choice, study: Study) -> dict[str, Any]:
    found = {
        "trial": choice.best.number,
        "near": [one.number for one in choice.near],
        "band": {name: list(ends) for name, ends in choice.band.items()},
        "edges": [list(edge) for edge in choice.edges(study.space)],
    }
    return {**found, "band_words": band_words(found)}


def measures_of(before: list[Outcome], after: list[Outcome]) -> dict[str, Any]:
    """Measure -> what it is at the start and with the best, and the change, with intervals."""
    values: dict[str, Callable[[Outcome], float | None]] = {
        "score": lambda one: float(pair_scores([one.chosen_logps], [one.rejected_logps])[0]),
        "preference_accuracy": lambda one: one.prefers_chosen,
        "chosen_logps": lambda one: one.chosen_logps,
        "correct_answers": lambda one: None if one.correct is None else float(one.correct),
    }
    found = {}
    for name, read in values.items():
        both = [[read(one) for one in outcomes] for outcomes in (before, after)]
        kept = [i for i in range(len(before)) if both[0][i] is not None and both[1][i] is not None]
        if not kept:
            continue
        prompts = [before[i].prompt for i in kept]
        first, second = ([float(side[i] or 0.0) for i in kept] for side in both)
        found[name] = {
            "start": mean_interval(first, prompts).as_dict(),
            "best": mean_interval(second, prompts).as_dict(),
            "change": plain(change_of(paired_interval(first, second, prompts))),
        }
    return found


def _account(told: list[dict[str, Any]]) -> dict[str, int]:
    states = ("complete", "pruned", "failed", "cut off", "running")
    return {state: sum(one["state"] == state for one in told) for state in states}


def _machine() -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    device = torch.accelerator.current_accelerator()
    return {
        "device": torch.cuda.get_device_name() if cuda else str(device or "cpu"),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
