"""The tasks of a comparison: the rows they read, what each process is told, what it leaves behind.

A task that is finished as it was told is not run again.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from orpo.data.sources import Source
from orpo.data.split import hold_out
from orpo.data.types import Row
from orpo.errors import ConfigError, DataError, RunStopped, TrainingError
from orpo.experiments import measuring
from orpo.experiments.plans import CompareJob
from orpo.experiments.results import BASE, STAGES, Arm, Outcome, Stage
from orpo.runs.files import read_jsonl, write_json, write_jsonl
from orpo.runs.processes import Supervisor, supervised
from orpo.runs.reading import read_object
from orpo.runs.typed import plain, typed
from orpo.runs.writing import write_text
from orpo.train.job import TrainJob

COST, OUTCOMES = "cost.json", "outcomes.jsonl"
REFUSED = 2
"""Exit code of a worker whose input was wrong."""
CENTRE = {"orpo": "orpo-lr1-lambda1", "sft": "sft-lr1", "dpo": "dpo-lr1"}
"""Objective -> the cell of the grid with the settings of the comparison's own runs."""
_CURVE_POINTS = 8
_TRIAL_STEPS = 8
_LEARNING_RATES = (1 / 3, 1.0, 3.0)
_ALPHAS = (1 / 4, 1.0, 4.0)
_CHOOSING = 0.25
_MOST_CHOOSING = 128
_SPLIT = 42
"""Seed of the sides that prompts fall on: the same whatever the runs' seeds are."""
_HOLDING_OUT = 43
"""Another one: the draw that held a prompt out would put it on one and the same side again."""

Found = tuple[dict[str, Any], list[Outcome]]
"""What a task left behind: its facts, and what its model made of the held-out pairs."""


@dataclass(frozen=True)
class HeldOut:
    """How a model is put to the test: pairs, prompts to answer, and MODULE:FUNCTION to check."""

    dataset: str
    answers: int
    answer_tokens: int
    checker: str = ""


@dataclass(frozen=True)
class TaskSpec:
    """What one process is told."""

    kind: str  # stage: train and measure; base: measure; grid: its cells, short runs, in turn
    folder: str  # what it writes; for a stage also its run folder
    job: dict[str, Any]  # fields of TrainJob
    settings: dict[str, Any]  # fields of ORPOConfig
    held_out: HeldOut | None = None  # the test; None for a stage that another follows
    cells: list[TaskSpec] = field(default_factory=list)

    def finish(self, facts: Mapping[str, Any], outcomes: Sequence[Outcome]) -> None:
        """Put it on record: the outcomes, and then what it cost beside what it was told."""
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        write_jsonl(Path(self.folder) / OUTCOMES, plain(outcomes))
        write_json(Path(self.folder) / COST, {"spec": plain(self), "found": facts})

    def finished(self) -> Found | None:
        """What it left behind; None if it was not finished, or was told something else."""
        folder = Path(self.folder)
        try:
            record = read_object(folder / COST)
            lines = read_jsonl(folder / OUTCOMES)
            if record["spec"] != plain(self):
                return None
            where = str(folder / OUTCOMES)
            return record["found"], [typed(Outcome, line, where=where) for line in lines]
        except (DataError, OSError, KeyError):
            return None


@dataclass(frozen=True)
class Rows:
    """Where a comparison's rows lie, and how many; the grid's and curves' are not the table's."""

    place: Path
    train: str
    counts: Mapping[str, int]

    @property
    def test(self) -> str:
        """The pairs of the table."""
        return str(self.place / "test.jsonl")

    @property
    def choosing(self) -> str:
        """Those of the curves and the grid."""
        return str(self.place / "choosing.jsonl")

    def drawn(self, count: int, seed: int) -> str:
        """A file of so many training rows drawn at random, or the data where all are needed."""
        total = self.counts["train"]
        if count >= total:
            return self.train
        path = self.place / f"drawn-{count}-seed{seed}.jsonl"
        if not path.is_file():
            kept = frozenset(Random(seed).sample(range(total), count))  # noqa: S311 - no secret
            _write_rows(path, (row for n, row in enumerate(Source(self.train)) if n in kept))
        return str(path)


def prepare_rows(job: CompareJob) -> Rows:
    """Divide the held-out rows, and count; what is there already stays as it is."""
    place, config, spec = job.folder / "data", job.config("orpo"), job.dataset
    path = place / "counts.json"
    own = config.column_names or not job.train.eval_dataset  # what is written has our names
    train = str(place / "train.jsonl") if own else spec
    if not path.is_file():
        place.mkdir(parents=True, exist_ok=True)
        reading = {"data_format": config.format_name, "pair_rule": config.pair_rule}
        rows: Iterable[Row] = Source(spec, config.column_names)
        if job.train.eval_dataset:
            held: Sequence[Row] = list(Source(job.train.eval_dataset, config.column_names))
            counts = {"train": _write_rows(Path(train), rows) if own else sum(1 for _ in rows)}
        else:
            rows, kept = hold_out(rows, job.train.held_out, _HOLDING_OUT, spec, **reading)
            held = list(kept)
            counts = {"train": _write_rows(Path(train), rows)}
        sides = measuring.divided(held, _CHOOSING, _MOST_CHOOSING, _SPLIT, config)
        for name, side in zip(("test", "choosing"), sides, strict=True):
            counts[name] = _write_rows(place / f"{name}.jsonl", side)
        write_json(path, counts)
    return Rows(place, train, read_object(path))


def _write_rows(path: Path, rows: Iterable[Row]) -> int:
    lines = []
    for row in rows:
        if row.broken is not None:
            raise row.broken
        try:
            lines.append(json.dumps(dict(row.values), ensure_ascii=True) + "\n")
        except (TypeError, ValueError) as error:
            raise DataError(f"JSON cannot hold this row ({error})", where=row.where) from error
    write_text(path, "".join(lines))
    return len(lines)


def plan_arms(
    methods: Sequence[str],
    budget: str,
    seeds: Sequence[int],
    steps: int,
    costs: Mapping[str, float],
) -> list[Arm]:
    """The runs of a budget where ORPO's takes so many steps; `costs` are FLOPs of a step."""
    arms = []
    for seed in seeds:
        for method in methods:
            name, objectives = f"{method}-{budget}-seed{seed}", STAGES[method]
            each = steps // len(objectives)
            if budget == "flops":
                each = round(steps * costs["orpo"] / sum(costs[one] for one in objectives))
            if each < 1:
                raise ConfigError(
                    f"{steps} steps cannot be divided between the stages of {method}",
                    where="--max_steps",
                    fix=f"Give at least {2 * len(objectives)}.",
                )
            folders = [name] if len(objectives) == 1 else [f"{name}/{one}" for one in objectives]
            stages = zip(objectives, folders, ["", *folders], strict=False)
            made = [Stage(objective, each, folder, start) for objective, folder, start in stages]
            arms.append(Arm(name, method, budget, seed, made))
    return arms


class Tasks:
    """The tasks of a comparison on its rows."""

    def __init__(self, job: CompareJob, rows: Rows) -> None:
        self.job, self.rows = job, rows
        config = job.config("orpo")
        self.alpha = config.orpo_alpha or 0.0
        self.batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
        epochs = float(job.settings.get("num_train_epochs", 1))
        asked = int(job.settings.get("max_steps", -1))
        whole = max(1, round(epochs * rows.counts["train"] / self.batch))
        self.steps = asked if asked > 0 else whole
        longest = _TRIAL_STEPS if job.plan.no_sensitivity else max(_TRIAL_STEPS, self.steps // 4)
        self.grid_steps = max(1, min(self.steps, longest))
        left_out = {"output_dir", "learning_rate", "num_train_epochs", "max_steps", "columns"}
        given = {k: v for k, v in job.settings.items() if k not in left_out}
        self._settings = {"save_strategy": "no", "report_to": "none", **given}
        once = {"dataset": [rows.train], "eval_dataset": None, "held_out": 0.0, "samples": 0}
        self._facts = {**job.train.facts(), **once}

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
        groups = {"orpo": ["orpo"], "sft": [name for name in objectives if name != "orpo"]}
        settings = {**self._settings, "seed": self.job.all_seeds[0], "max_steps": self.grid_steps}
        settings |= {"eval_strategy": "no", "logging_steps": self.grid_steps}
        return [
            TaskSpec(
                *("grid", self._path(f"sensitivity/{group}"), self._facts, settings),
                cells=[cell for name in own for cell in self._cells(name, group, settings)],
            )
            for group, own in groups.items()
            if set(own) & set(objectives)
        ]

    def _cells(self, objective: str, group: str, settings: Mapping[str, Any]) -> Iterator[TaskSpec]:
        own, test = self.job.of_objective(objective), self._test(self.rows.choosing)
        dataset = self._rows_for(objective, self.grid_steps, self.job.all_seeds[0])
        facts = {**self._facts, "dataset": [dataset]}
        if objective == "dpo":
            facts["model"] = self._path(f"sensitivity/sft/{CENTRE['sft']}")
        for i, factor in enumerate(_LEARNING_RATES):
            changed = {**own, "learning_rate": _rounded(factor * own["learning_rate"])}
            for j, strength in enumerate(_ALPHAS if objective == "orpo" else (1.0,)):
                name = f"{objective}-lr{i}"
                if objective == "orpo":
                    name += f"-lambda{j}"
                    changed = {**changed, "orpo_alpha": _rounded(strength * self.alpha)}
                if not self.job.plan.no_sensitivity or name == CENTRE[objective]:
                    folder = self._path(f"sensitivity/{group}/{name}")
                    yield TaskSpec("cell", folder, facts, {**settings, **changed}, test)

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


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_of_each(at_once: int) -> int:
    """Threads of a run where so many run at a time: they divide the cores, unless told."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() else max(1, cores() // at_once)


def run_chains(
    chains: Sequence[Sequence[TaskSpec]], at_once: int, ended: Callable[[int], None]
) -> list[list[Found] | TrainingError]:
    """Run chains of tasks, so many at a time; what they found, or what broke a run's training.

    `ended` is told which has ended.
    """

    def run(chain: Sequence[TaskSpec]) -> list[Found] | TrainingError:
        try:
            return [spec.finished() or _run(spec, group, environment) for spec in chain]
        except TrainingError as error:
            if group.received or chain[0].kind != "stage":
                raise
            return error

    threads = {"OMP_NUM_THREADS": str(threads_of_each(at_once))}
    environment = {**measuring.QUIET, **threads, **os.environ}
    with ThreadPoolExecutor(at_once) as pool, supervised() as group:
        waiting = {pool.submit(run, chain): number for number, chain in enumerate(chains)}
        try:
            for future in as_completed(waiting):
                future.result()
                ended(waiting[future])
        except BaseException:
            for future in waiting:
                future.cancel()
            if group.received:
                words = "stopped: the same command goes on with what is finished"
                raise RunStopped(words, group.received[0]) from None
            raise
        return [future.result() for future in waiting]


def _run(spec: TaskSpec, group: Supervisor, environment: Mapping[str, str]) -> Found:
    folder = Path(spec.folder)
    if group.received:
        raise ChildProcessError(f"{folder} was not begun")
    child = measuring.start_worker(group, "orpo.commands.compare_worker", spec, folder, environment)
    assert child.process.stdout is not None
    said = child.process.stdout.read().decode("utf-8", "replace").strip()
    code, how = measuring.last_words(child)
    found = spec.finished()
    if code == 0 and found is not None:
        return found
    if code == REFUSED and said:
        raise ConfigError(said.removesuffix("."), where=folder.name)
    raise TrainingError(f"{said or f'it stopped with {how}'} (see {folder / measuring.LOG})")
