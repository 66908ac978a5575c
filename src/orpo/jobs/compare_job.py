"""ORPO beside SFT and SFT+DPO from the same start: every run, the table, the claims, the page."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from orpo.data import Source
from orpo.errors import ConfigError
from orpo.experiments.compare import (
    BASE,
    Arm,
    ArmResult,
    Cost,
    Group,
    Outcome,
    decide_claims,
    outcome_from,
    plan_arms,
    summarise,
)
from orpo.jobs.compare.examples import pick_examples
from orpo.jobs.compare.folder import KIND, Data, claim_comparison, prepare_data
from orpo.jobs.compare.judging import judge_arms
from orpo.jobs.compare.processes import Found, Pool
from orpo.jobs.compare.readings import curve_of, read_grid
from orpo.jobs.compare.tasks import CENTRE, CompareJob, Tasks, objectives_of, train_command
from orpo.jobs.compare.worker import load_checker
from orpo.runs import EVALUATION, run_lock, write_json
from orpo.train.recorder import versions

__all__ = ["CompareJob", "run_compare"]

Say = Callable[[str], None]


def run_compare(job: CompareJob, *, say: Say, overwrite: bool = False) -> dict[str, Any]:
    """Train every method, put every model to the same test, and write the page.

    What is finished in the folder is not run again; what was cut off is run from its beginning.

    Args:
        job: What is compared.
        say: Told, line by line, what happens.
        overwrite: Replace another comparison that the folder holds.

    Returns:
        What evaluation.json holds: the table, the claims, curves, costs, runs and settings.

    Raises:
        UserError: Wrong input.
        TrainingError: A run broke down.
    """
    started = time.perf_counter()
    if job.checker:
        load_checker(job.checker)
    with run_lock(job.folder):
        identity = {**job.identity(), "data": _fingerprints(job)}
        claim_comparison(job.folder, identity, overwrite=overwrite)
        data = prepare_data(job.folder, job.train, job.config("orpo"))
        tasks = Tasks(job, data)
        say(
            f"{data.rows} training rows; held out: {data.test_rows} pairs for the table, "
            f"{data.choosing_rows} others for curves and sensitivity"
        )
        runs = _Runs(job, tasks, say)
        base, arms = runs.take_all()
        judged = judge_arms(job.judge, base, arms, job.folder, say)
        result = _result(job, tasks, data, runs, (judged.base, judged.arms))
        result["judge"] = judged.about
        result["seconds"] = time.perf_counter() - started
        write_json(job.folder / EVALUATION, {"settings": identity, **result})
        result["report"] = str(_write_page(result, job.folder))
    return {"settings": identity, **result}


class _Runs:
    """All processes of a comparison, and what they found."""

    def __init__(self, job: CompareJob, tasks: Tasks, say: Say) -> None:
        self.job, self.tasks, self.say = job, tasks, say
        self.pool = Pool(job.at_once)
        self.base: Found = ({}, [])
        self.results: list[ArmResult] = []
        self.begun = time.perf_counter()

    @property
    def objectives(self) -> list[str]:
        """What the grid, or the trial in its place, takes steps of."""
        asked = objectives_of(self.job.methods)
        return list(dict.fromkeys(["orpo", *asked])) if "flops" in self.job.budgets else asked

    def take_all(self) -> tuple[tuple[Outcome, ...], list[ArmResult]]:
        """The base model's outcomes, and every arm's result."""
        wanted = self.objectives
        grid = self.tasks.grid(wanted) if self._needs_grid else []
        first = [arm for arm in self._arms("steps", {}) if "steps" in self.job.budgets]
        self._run([[self.tasks.base()], *[[spec] for spec in grid]], first)
        if "flops" in self.job.budgets:
            costs = self._costs(wanted)
            shown = ", ".join(f"{name} {costs[name] / 1e9:,.2f}" for name in wanted)
            self.say(f"measured GFLOPs of a step: {shown}")
            self._run([], self._not_yet(self._arms("flops", costs)))
        outcomes = tuple(outcome_from(one) for one in self.base[1])
        if not outcomes:
            raise ConfigError("no held-out pair has both answers", where="--eval_dataset")
        return outcomes, self.results

    @property
    def _needs_grid(self) -> bool:
        return self.job.sensitivity or "flops" in self.job.budgets

    def _arms(self, budget: str, costs: Mapping[str, float]) -> list[Arm]:
        return plan_arms(self.job.methods, budget, self.tasks.seeds, self.tasks.steps, costs)

    def _not_yet(self, arms: Sequence[Arm]) -> list[Arm]:
        """ORPO's run is the measure of both budgets, and taken once."""
        there = {(r.arm.method, r.arm.seed) for r in self.results if r.arm.method == "orpo"}
        return [arm for arm in arms if (arm.method, arm.seed) not in there]

    def _costs(self, objectives: Sequence[str]) -> dict[str, float]:
        cells = {cell["name"]: cell["cost"] for cell in read_grid(self.job.folder)}
        return {
            name: cells[CENTRE[name]]["flops"] / cells[CENTRE[name]]["steps"] for name in objectives
        }

    def _run(self, others: Sequence[Any], arms: Sequence[Arm]) -> None:
        chains = [*others, *(self.tasks.arm(arm) for arm in arms)]
        total = len(chains)
        self.say(f"{total} runs, {self.pool.at_once} at a time")
        count = 0

        def done(number: int, found: list[Found]) -> None:
            nonlocal count
            count += 1
            if number == 0 and others:
                self.base = found[0]
            elif number >= len(others):
                self.results.append(_arm_result(arms[number - len(others)], found))
            seconds = time.perf_counter() - self.begun
            self.say(f"{count} of {total}, {seconds:.0f} s: {_told(chains[number], self.job)}")

        self.pool.run(chains, done)


def _told(chain: Sequence[Any], job: CompareJob) -> str:
    folder = Path(chain[0].folder).relative_to(job.folder)
    if chain[0].kind == "base":
        return "the base model, tested"
    if chain[0].kind == "grid":
        return f"{len(chain[0].cells)} short runs ({folder})"
    return str(folder.parts[0])


def _arm_result(arm: Arm, found: Sequence[Found]) -> ArmResult:
    costs = tuple(Cost(**facts["cost"]) for facts, _ in found)
    return ArmResult(arm, costs, tuple(outcome_from(one) for one in found[-1][1]))


def _result(
    job: CompareJob,
    tasks: Tasks,
    data: Data,
    runs: _Runs,
    measured: tuple[ArmResult, list[ArmResult]],
) -> dict[str, Any]:
    base_result, arms = measured
    base = Group(BASE, "", (base_result,))
    groups = _groups(job, arms)
    order = {result.arm.name: result for result in arms}
    return {
        "kind": KIND,
        "model": job.train.model,
        "dataset": (job.train.dataset or [""])[0],
        "command": job.command,
        "methods": list(job.methods),
        "budgets": list(job.budgets),
        "seeds": tasks.seeds,
        "steps": tasks.steps,
        "batch": tasks.batch,
        "learning_rates": job.identity()["learning_rates"],
        "orpo_alpha": job.config("orpo").orpo_alpha,
        "dpo_beta": job.config("dpo").dpo_beta,
        "checked": bool(job.checker),
        "answered": min(job.train.samples, len(base_result.outcomes)),
        "held_out": {**runs.base[0]["held_out"], "choosing": data.choosing_rows},
        "table": [summarise(base, base), *(summarise(group, base) for group in groups)],
        "claims": [claim.as_dict() for claim in decide_claims(groups, base)],
        "curves": [curve for result in order.values() for curve in curve_of(job.folder, result)],
        "sensitivity": _sensitivity(job),
        "runs": [_run_of(tasks, result) for result in arms],
        "examples": pick_examples(base_result, groups),
        "machine": _machine(runs.pool),
        "versions": versions(),
    }


def _groups(job: CompareJob, arms: Sequence[ArmResult]) -> list[Group]:
    """Methods at budgets, in the order asked; ORPO's runs stand in every budget."""
    groups = []
    for budget in job.budgets:
        for method in job.methods:
            own = [r for r in arms if r.arm.method == method]
            if method != "orpo":
                own = [r for r in own if r.arm.budget == budget]
            own.sort(key=lambda result: result.arm.seed)
            groups.append(Group(method, budget, tuple(own)))
    return groups


def _sensitivity(job: CompareJob) -> list[dict[str, Any]]:
    cells = read_grid(job.folder) if job.sensitivity else []
    return [cell for cell in cells if cell["objective"] in objectives_of(job.methods)]


def _run_of(tasks: Tasks, result: ArmResult) -> dict[str, Any]:
    specs = tasks.arm(result.arm)
    count = len(result.outcomes)
    checked = [o.correct for o in result.outcomes if o.correct is not None]
    return {
        **result.arm.as_dict(),
        "costs": [asdict(cost) for cost in result.costs],
        "preference_accuracy": sum(o.prefers_chosen for o in result.outcomes) / max(count, 1),
        "correct_answers": sum(checked) / len(checked) if checked else None,
        "commands": [train_command(spec) for spec in specs],
    }


def _fingerprints(job: CompareJob) -> dict[str, Any]:
    """What the data files hold, as digests; a Hub id is only a name."""
    named = {"dataset": (job.train.dataset or [""])[0], "eval_dataset": job.train.eval_dataset}
    return {name: Source(spec).fingerprint() for name, spec in named.items() if spec}


def _machine(pool: Pool) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    device = torch.accelerator.current_accelerator()
    return {
        "device": torch.cuda.get_device_name() if cuda else str(device or "cpu"),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "at_once": pool.at_once,
        "threads": pool.threads,
    }


def _write_page(result: Mapping[str, Any], folder: Path) -> Path:
    from orpo.report import write_evaluation_page  # noqa: PLC0415 - matplotlib loads in seconds
    from orpo.report.evaluation.comparison import build_page  # noqa: PLC0415

    return write_evaluation_page(build_page(result, folder), folder)
