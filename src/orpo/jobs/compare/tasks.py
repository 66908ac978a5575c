"""From a comparison to its tasks: which runs there are, and what each of them is told."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo.config import ORPOConfig
from orpo.errors import ConfigError
from orpo.evaluate.judge import JudgeSettings
from orpo.experiments.compare import BASE, STAGES, Arm, Stage
from orpo.jobs.compare.folder import Data, drawn_rows
from orpo.jobs.compare.spec import CellSpec, HeldOut, TaskSpec
from orpo.jobs.train_job import TrainJob

__all__ = ["CENTRE", "CompareJob", "Tasks", "train_command"]

_CURVE_POINTS = 8
_TRIAL_STEPS = 8
_LEARNING_RATES = (1 / 3, 1.0, 3.0)
_ALPHAS = (1 / 4, 1.0, 4.0)
CENTRE = {"orpo": "orpo-lr1-lambda1", "sft": "sft-lr1", "dpo": "dpo-lr1"}
"""Objective -> the cell of the grid with the settings of the comparison's own runs."""
_ALL_ALIKE = {"save_strategy": "no", "report_to": "none"}


@dataclass(frozen=True)
class CompareJob:
    """What is compared.

    Attributes:
        train: The model, the data, what is held out of them, and how many prompts are answered.
        settings: Fields of `ORPOConfig` as given; the learning rate is ORPO's.
        folder: The output folder.
        methods: Some of `orpo.experiments.compare.METHODS`.
        budgets: Some of `orpo.experiments.compare.BUDGETS`.
        seeds: How many; from `settings["seed"]` on.
        learning_rates: "sft" and "dpo" -> their own; SFT has ORPO's and DPO a tenth otherwise.
        sensitivity: Take the short runs of the grid of learning rates and lambdas.
        checker: `module:function` that checks answers; empty for none.
        at_once: Runs at a time.
        judge: Prefers one of two answers, if given.
        command: How the comparison was started, for the page.

    Raises:
        ConfigError: A value that cannot be meant.
    """

    train: TrainJob
    settings: Mapping[str, Any]
    folder: Path
    methods: tuple[str, ...]
    budgets: tuple[str, ...]
    seeds: int = 3
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    sensitivity: bool = True
    checker: str = ""
    at_once: int = 1
    judge: JudgeSettings | None = None
    command: str = "orpo compare"

    def __post_init__(self) -> None:
        """Check every value before anything is loaded."""
        for flag, value in (("--seeds", self.seeds), ("--at_once", self.at_once)):
            if value < 1:
                raise ConfigError(f"must be at least 1, is {value}", where=flag)
        for objective, rate in self.learning_rates.items():
            if not rate > 0:
                raise ConfigError(
                    f"must be positive, is {rate}", where=f"--{objective}_learning_rate"
                )
        _require_one_split(self.train)
        if self.config("orpo").holds_secrets:
            raise ConfigError(
                "a comparison writes its settings down, and a token would stand among them",
                where="--hub_token or --model_init_kwargs",
                fix="Set HF_TOKEN in the environment instead.",
            )

    @property
    def first_seed(self) -> int:
        """The seed of the first run of each method."""
        return int(self.settings.get("seed", ORPOConfig(output_dir="unused").seed))

    def config(self, objective: str) -> ORPOConfig:
        """The settings of an objective, checked."""
        settings = {**self.settings, **self.of_objective(objective)}
        return ORPOConfig(**{**settings, "output_dir": str(self.folder)})

    def of_objective(self, objective: str) -> dict[str, Any]:
        """What differs between the objectives."""
        rate = float(self.settings.get("learning_rate", ORPOConfig.learning_rate))
        own = {"orpo": rate, "sft": rate, "dpo": rate / 10, **self.learning_rates}
        return {"objective": objective, "learning_rate": own[objective]}

    def identity(self) -> dict[str, Any]:
        """What may not change if new runs are to stand beside those that are there."""
        left_out = {"output_dir", "seed"}
        settings = {k: v for k, v in self.settings.items() if k not in left_out}
        rates = {name: self.of_objective(name)["learning_rate"] for name in CENTRE}
        return {
            "job": self.train.facts(),
            "training": settings,
            "learning_rates": rates,
            "checker": self.checker,
        }


def _require_one_split(job: TrainJob) -> None:
    if len(job.dataset or []) != 1 or job.mix:
        raise ConfigError(
            "a comparison takes one data set", where="--dataset", fix="Join them to one file first."
        )
    if job.resume:
        raise ConfigError("a comparison goes on by itself", where="--resume", fix="Leave it out.")
    if not job.eval_dataset and not job.held_out:
        raise ConfigError(
            "held-out pairs are needed",
            where="--eval_dataset",
            fix="Add --eval_dataset NAME, or --held_out SHARE.",
        )


class Tasks:
    """The tasks of a comparison.

    Args:
        job: What is compared.
        data: Its rows.
    """

    def __init__(self, job: CompareJob, data: Data) -> None:
        self.job, self.data = job, data
        config = job.config("orpo")
        self.batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
        epochs = float(job.settings.get("num_train_epochs", 1))
        asked = int(job.settings.get("max_steps", -1))
        self.steps = asked if asked > 0 else max(1, round(epochs * data.rows / self.batch))
        self.grid_steps = max(1, min(self.steps, max(_TRIAL_STEPS, self.steps // 4)))
        if not job.sensitivity:
            self.grid_steps = max(1, min(self.steps, _TRIAL_STEPS))

    @property
    def seeds(self) -> list[int]:
        """Of all runs."""
        return [self.job.first_seed + n for n in range(self.job.seeds)]

    def base(self) -> TaskSpec:
        """The model as it is before any training, put to the test."""
        settings = {**self._common(), "seed": self.job.first_seed}
        return TaskSpec(
            "base", self._path(BASE), self._job(), settings, self._held_out(self.data.test)
        )

    def arm(self, arm: Arm) -> list[TaskSpec]:
        """The stages of a run, in order."""
        last = arm.stages[-1]
        return [self._stage(arm, stage, tested=stage is last) for stage in arm.stages]

    def grid(self, objectives: Sequence[str]) -> list[TaskSpec]:
        """The short runs: ORPO's in one process, SFT's and what goes on from them in another."""
        test = self._held_out(self.data.choosing)
        common = {**self._common(), "seed": self.job.first_seed, "max_steps": self.grid_steps}
        common |= {"eval_strategy": "no", "logging_steps": self.grid_steps}
        groups = {"orpo": ["orpo"], "sft": [name for name in objectives if name != "orpo"]}
        return [
            TaskSpec(
                "grid",
                self._path(f"sensitivity/{group}"),
                {**self._job(), "eval_dataset": None},
                common,
                test,
                tuple(cell for name in members for cell in self._cells(name)),
            )
            for group, members in groups.items()
            if members and set(members) & set(objectives)
        ]

    def _cells(self, objective: str) -> Iterator[CellSpec]:
        own = self.job.of_objective(objective)
        alpha = self.job.config("orpo").orpo_alpha or 0.0
        start = CENTRE["sft"] if objective == "dpo" else ""
        dataset = self._rows_for(objective, self.grid_steps, self.job.first_seed)
        for i, factor in enumerate(_LEARNING_RATES):
            rate = {**own, "learning_rate": _rounded(factor * own["learning_rate"])}
            lambdas = _ALPHAS if objective == "orpo" else (1.0,)
            for j, strength in enumerate(lambdas):
                name = f"{objective}-lr{i}" + (f"-lambda{j}" if objective == "orpo" else "")
                if not self.job.sensitivity and name != CENTRE[objective]:
                    continue
                more = {"orpo_alpha": _rounded(strength * alpha)} if objective == "orpo" else {}
                yield CellSpec(name, {**rate, **more}, dataset, start)

    def _stage(self, arm: Arm, stage: Stage, *, tested: bool) -> TaskSpec:
        folder = self._path(stage.folder)
        settings = {
            **self._common(),
            **self.job.of_objective(stage.objective),
            "max_steps": stage.steps,
            "seed": arm.seed,
            "output_dir": folder,
            "eval_strategy": "steps",
            "eval_steps": max(1, stage.steps // _CURVE_POINTS),
        }
        dataset = self._rows_for(stage.objective, stage.steps, arm.seed)
        job = {**self._job(), "dataset": [dataset], "eval_dataset": self.data.choosing}
        if stage.start:  # an adapter goes on being trained
            job |= {"model": self._path(stage.start), "lora_r": None, "tokenizer": None}
        test = self._held_out(self.data.test) if tested else None
        return TaskSpec("stage", folder, {**job, "overwrite": True}, settings, test)

    def _rows_for(self, objective: str, steps: int, seed: int) -> str:
        if objective != "dpo":
            return self.data.train
        needed = steps * self.batch
        return drawn_rows(self.job.folder, self.data.train, needed, seed, self.data.rows)

    def _common(self) -> dict[str, Any]:
        left_out = {"output_dir", "learning_rate", "num_train_epochs", "max_steps"}
        given = {k: v for k, v in self.job.settings.items() if k not in left_out}
        return {**_ALL_ALIKE, **given}

    def _job(self) -> dict[str, Any]:
        facts = self.job.train.facts()
        facts |= {"dataset": [self.data.train], "eval_dataset": None, "held_out": 0.0}
        return {**facts, "samples": 0}

    def _held_out(self, dataset: str) -> HeldOut:
        job = self.job
        return HeldOut(dataset, job.train.samples, job.train.sample_tokens, job.checker)

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


def objectives_of(methods: Sequence[str]) -> list[str]:
    """What is trained in some stage of some method."""
    return list(dict.fromkeys(objective for m in methods for objective in STAGES[m]))


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
