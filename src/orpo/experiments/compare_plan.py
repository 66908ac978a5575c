"""What is compared, which runs it consists of, and when two of them have cost the same."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo.errors import ConfigError
from orpo.evaluate.settings import JudgeSettings
from orpo.experiments.comparison import BASE, STAGES, Arm, ComparePlan, Stage
from orpo.experiments.tasks import CellSpec, HeldOut, TaskSpec
from orpo.settings import training_settings
from orpo.train.job import TrainJob

if TYPE_CHECKING:
    from orpo.config import ORPOConfig

CENTRE = {"orpo": "orpo-lr1-lambda1", "sft": "sft-lr1", "dpo": "dpo-lr1"}
"""Objective -> the cell of the grid with the settings of the comparison's own runs."""
_CURVE_POINTS = 8
_TRIAL_STEPS = 8
_LEARNING_RATES = (1 / 3, 1.0, 3.0)
_ALPHAS = (1 / 4, 1.0, 4.0)


def plan_arms(
    methods: Sequence[str],
    budget: str,
    seeds: Sequence[int],
    steps: int,
    costs: Mapping[str, float],
) -> list[Arm]:
    """The runs of one budget, where ORPO's takes so many steps.

    `costs` are each objective's floating-point operations of a step, all that belongs to it
    included; with the budget "steps" they are not asked for.

    Raises:
        ConfigError: There are too few steps to divide.
    """
    return [
        _arm(method, budget, seed, _steps_of(method, budget, steps, costs))
        for seed in seeds
        for method in methods
    ]


def _steps_of(method: str, budget: str, steps: int, costs: Mapping[str, float]) -> int:
    """Steps of each stage of a method."""
    objectives = STAGES[method]
    each = steps // len(objectives)
    if budget == "flops":
        each = round(steps * costs["orpo"] / sum(costs[objective] for objective in objectives))
    if each < 1:
        raise ConfigError(
            f"{steps} steps cannot be divided between the stages of {method}",
            where="--max_steps",
            fix=f"Give at least {2 * len(objectives)}.",
        )
    return each


def _arm(method: str, budget: str, seed: int, steps: int) -> Arm:
    name, objectives = f"{method}-{budget}-seed{seed}", STAGES[method]
    alone = len(objectives) == 1
    folders = [name if alone else f"{name}/{objective}" for objective in objectives]
    each = zip(objectives, folders, ["", *folders], strict=False)
    stages = [Stage(objective, steps, folder, start) for objective, folder, start in each]
    return Arm(name, method, budget, seed, stages)


@dataclass(frozen=True)
class CompareJob:
    """A comparison.

    Attributes:
        train: The model, the data, what is held out of them, and how many prompts are answered.
        settings: Fields of `ORPOConfig` as given; learning rate and seed are those of ORPO's first.
        folder: The output folder.
        judge: Prefers one of two answers, if given.
        command: How the comparison was started, for the page.

    Raises:
        ConfigError: A value that cannot be meant.
    """

    train: TrainJob
    settings: Mapping[str, Any]
    folder: Path
    plan: ComparePlan
    judge: JudgeSettings | None = None
    command: str = "orpo compare"

    def __post_init__(self) -> None:
        """Check every value before anything is loaded."""
        if len(self.train.dataset or []) != 1 or self.train.mix:
            what, fix = "a comparison takes one data set", "Join them to one file first."
            raise ConfigError(what, where="--dataset", fix=fix)
        if self.train.resume:
            what = "a comparison goes on by itself"
            raise ConfigError(what, where="--resume", fix="Leave it out.")
        if not self.train.eval_dataset and not self.train.held_out:
            raise ConfigError(
                "held-out pairs are needed",
                where="--eval_dataset",
                fix="Add --eval_dataset NAME, or --held_out SHARE.",
            )
        if self.config("orpo").holds_secrets:
            raise ConfigError(
                "a comparison writes its settings down, and a token would stand among them",
                where="--hub_token or --model_init_kwargs",
                fix="Set HF_TOKEN in the environment instead.",
            )

    @property
    def dataset(self) -> str:
        """The one that it is trained on."""
        return (self.train.dataset or [""])[0]

    @property
    def all_seeds(self) -> list[int]:
        """Of the runs of each method."""
        first = int(self.settings.get("seed", training_settings()["seed"].default))
        return [first + n for n in range(self.plan.seeds)]

    @property
    def rates(self) -> dict[str, float]:
        """Objective -> learning rate."""
        default = training_settings()["learning_rate"].default
        rate = float(self.settings.get("learning_rate", default))
        sft, dpo = self.plan.sft_learning_rate, self.plan.dpo_learning_rate
        return {"orpo": rate, "sft": sft or rate, "dpo": dpo or rate / 10}

    def of_objective(self, objective: str) -> dict[str, Any]:
        """The settings that differ between the objectives."""
        return {"objective": objective, "learning_rate": self.rates[objective]}

    def config(self, objective: str) -> ORPOConfig:
        """The settings of an objective, checked."""
        from orpo.config import ORPOConfig  # noqa: PLC0415 - loads torch

        own = {**self.of_objective(objective), "output_dir": str(self.folder)}
        return ORPOConfig(**{**self.settings, **own})

    def identity(self) -> dict[str, Any]:
        """What may not change if new runs are to stand beside those that are there."""
        left_out = {"output_dir", "seed"}
        return {
            "job": self.train.facts(),
            "training": {k: v for k, v in self.settings.items() if k not in left_out},
            "learning_rates": {name: self.rates[name] for name in CENTRE},
            "checker": self.plan.checker,
        }


@dataclass(frozen=True)
class Rows:
    """Where the rows of a comparison lie, and how many there are.

    Pairs for the curves and the grid are others than those of the table: a setting that looks best
    on the former has not seen the latter.
    """

    train: str
    test: str
    choosing: str
    counts: Mapping[str, int]
    drawn: Callable[[int, int], str]
    """The file of so many training rows, drawn with a seed."""


class Tasks:
    """The tasks of a comparison on its rows."""

    def __init__(self, job: CompareJob, rows: Rows) -> None:
        self.job, self.rows = job, rows
        config = job.config("orpo")
        self.batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
        epochs = float(job.settings.get("num_train_epochs", 1))
        asked = int(job.settings.get("max_steps", -1))
        self.steps = (
            asked if asked > 0 else max(1, round(epochs * rows.counts["train"] / self.batch))
        )
        longest = _TRIAL_STEPS if job.plan.no_sensitivity else max(_TRIAL_STEPS, self.steps // 4)
        self.grid_steps = max(1, min(self.steps, longest))
        left_out = {"output_dir", "learning_rate", "num_train_epochs", "max_steps"}
        given = {k: v for k, v in job.settings.items() if k not in left_out}
        self._settings = {"save_strategy": "no", "report_to": "none", **given}
        self._facts = {
            **job.train.facts(),
            **{"dataset": [rows.train], "eval_dataset": None, "held_out": 0.0, "samples": 0},
        }

    def base(self) -> TaskSpec:
        """The model as it is before any training, put to the test."""
        settings = {**self._settings, "seed": self.job.all_seeds[0]}
        return TaskSpec("base", self._path(BASE), self._facts, settings, self._test(self.rows.test))

    def arm(self, arm: Arm) -> list[TaskSpec]:
        """The stages of a run, in order."""
        return [self._stage(arm, stage) for stage in arm.stages]

    def _stage(self, arm: Arm, stage: Stage) -> TaskSpec:
        folder = self._path(stage.folder)
        settings = {
            **self._settings,
            **self.job.of_objective(stage.objective),
            "max_steps": stage.steps,
            "seed": arm.seed,
            "output_dir": folder,
            "eval_strategy": "steps",
            "eval_steps": max(1, stage.steps // _CURVE_POINTS),
        }
        dataset = self._rows_for(stage.objective, stage.steps, arm.seed)
        facts = {**self._facts, "dataset": [dataset], "eval_dataset": self.rows.choosing}
        if stage.start:  # an adapter goes on being trained
            facts |= {"model": self._path(stage.start), "lora_r": None, "tokenizer": None}
        test = self._test(self.rows.test) if stage is arm.stages[-1] else None
        return TaskSpec("stage", folder, {**facts, "overwrite": True}, settings, test)

    def grid(self, objectives: Sequence[str]) -> list[TaskSpec]:
        """The short runs: ORPO's in one process, SFT's and what goes on from them in another."""
        settings = {**self._settings, "seed": self.job.all_seeds[0], "max_steps": self.grid_steps}
        settings |= {"eval_strategy": "no", "logging_steps": self.grid_steps}
        test = self._test(self.rows.choosing)
        groups = {"orpo": ["orpo"], "sft": [name for name in objectives if name != "orpo"]}
        return [
            TaskSpec(
                *("grid", self._path(f"sensitivity/{group}"), self._facts, settings, test),
                [cell for name in members for cell in self._cells(name)],
            )
            for group, members in groups.items()
            if set(members) & set(objectives)
        ]

    def _cells(self, objective: str) -> Iterator[CellSpec]:
        own = self.job.of_objective(objective)
        alpha = self.job.config("orpo").orpo_alpha or 0.0
        start = CENTRE["sft"] if objective == "dpo" else ""
        dataset = self._rows_for(objective, self.grid_steps, self.job.all_seeds[0])
        for i, factor in enumerate(_LEARNING_RATES):
            settings = {**own, "learning_rate": _rounded(factor * own["learning_rate"])}
            for j, strength in enumerate(_ALPHAS if objective == "orpo" else (1.0,)):
                name = f"{objective}-lr{i}"
                if objective == "orpo":
                    name += f"-lambda{j}"
                    settings = {**settings, "orpo_alpha": _rounded(strength * alpha)}
                if not self.job.plan.no_sensitivity or name == CENTRE[objective]:
                    yield CellSpec(name, settings, dataset, start)

    def _rows_for(self, objective: str, steps: int, seed: int) -> str:
        """DPO's reference scores its whole data set: it is given what it will train on."""
        return self.rows.drawn(steps * self.batch, seed) if objective == "dpo" else self.rows.train

    def _test(self, dataset: str) -> HeldOut:
        train = self.job.train
        return HeldOut(dataset, train.samples, train.sample_tokens, self.job.plan.checker)

    def _path(self, name: str) -> str:
        return str(self.job.folder / name)


def train_command(spec: TaskSpec) -> str:
    """The command line that takes a stage's steps alone."""
    job = {k: v for k, v in spec.job.items() if v not in (None, 0, 0.0, False)}
    job |= {"samples": spec.job["samples"], "dataset": spec.job["dataset"][0]}
    flags = {**{k: v for k, v in job.items() if k != "overwrite"}, **spec.settings}
    defaults = TrainJob(model="unused", dataset=["unused"])
    words = ["orpo", "train"]
    for name, value in flags.items():
        if getattr(defaults, name, None) != value and value is not None:
            words += [f"--{name}", str(value)]
    return shlex.join(words)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
