"""ORPO beside SFT and SFT+DPO from the same start: the folder, its rows, and every run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from orpo.data.sources import Source
from orpo.data.split import hold_out
from orpo.data.types import Row
from orpo.errors import ConfigError, DataError
from orpo.experiments import joining
from orpo.experiments.claims import ArmResult
from orpo.experiments.compare_plan import CENTRE, CompareJob, Rows, Tasks, plan_arms
from orpo.experiments.comparison import KIND, Arm, ComparisonResult, Cost, Outcome
from orpo.experiments.tasks import Found, TaskSpec, load_checker, run_chains
from orpo.runs.claim import claim_folder
from orpo.runs.files import EVALUATION, REPORT, write_json
from orpo.runs.lock import run_lock
from orpo.runs.reading import read_object
from orpo.runs.typed import plain, typed
from orpo.runs.writing import write_text

_FOLDERS = ("base", "data", "sensitivity", "figures", "*-seed*")
_FILES = (EVALUATION, REPORT, "judge-cache.jsonl", joining.JUDGMENTS)
_CHOOSING = 0.25
_MOST_CHOOSING = 128
_SPLIT = 42
"""Seed of the sides that prompts fall on: the same whatever the runs' seeds are."""
_HOLDING_OUT = 43
"""Another one: the draw that held a prompt out would put it on one and the same side again."""

Say = Callable[[str], None]


def run_compare(job: CompareJob, *, say: Say, overwrite: bool = False) -> ComparisonResult:
    """Train every method, and put every model to the same test.

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
    if job.plan.checker:
        load_checker(job.plan.checker)
    with run_lock(job.folder):
        named = {"dataset": job.dataset, "eval_dataset": job.train.eval_dataset}
        prints = {name: Source(spec).fingerprint() for name, spec in named.items() if spec}
        settings = {**job.identity(), "data": prints}
        claim_comparison(job.folder, settings, overwrite=overwrite)
        rows = prepare_rows(job)
        counts = rows.counts
        say(
            f"{counts['train']} training rows; held out: {counts['test']} pairs for the table, "
            f"{counts['choosing']} others for curves and sensitivity"
        )
        runs = _Runs(job, Tasks(job, rows), say)
        runs.take_all()
        about, results = joining.judge_arms(job, runs.outcomes, runs.results, say)
        result = replace(
            joining.join(runs.tasks, runs.outcomes, results),
            settings=settings,
            held_out={**runs.held_out, "choosing": counts["choosing"]},
            judge=about,
            seconds=time.perf_counter() - started,
        )
        write_json(job.folder / EVALUATION, plain(result))
    return result


# The folder and its data


def claim_comparison(folder: Path, settings: dict[str, Any], *, overwrite: bool) -> None:
    """Make the folder this comparison's, or go on with it.

    Raises:
        ConfigError: It holds a comparison with other settings, or something else.
    """
    ours = (*_FOLDERS, *_FILES)
    claim_folder(
        folder,
        KIND,
        ours,
        settings=settings,
        overwrite=overwrite,
        costly=ours,
        mark={"settings": settings},
    )


def prepare_rows(job: CompareJob) -> Rows:
    """Divide the held-out rows, and count; what is there already stays as it is.

    Raises:
        DataError: Rows that cannot be read.
        ConfigError: Too few of them.
    """
    place, config, spec = job.folder / "data", job.config("orpo"), job.dataset
    train, test, choosing = (place / f"{side}.jsonl" for side in ("train", "test", "choosing"))
    source = spec if job.train.eval_dataset else str(train)
    counts = _read(place / "counts.json")
    if not counts:
        place.mkdir(parents=True, exist_ok=True)
        reading = {"data_format": config.format_name, "pair_rule": config.pair_rule}
        rows: Iterable[Row] = Source(spec)
        if job.train.eval_dataset:
            held: Sequence[Row] = list(Source(job.train.eval_dataset))
            counts = {"train": sum(1 for _ in rows)}
        else:
            rows, kept = hold_out(rows, job.train.held_out, _HOLDING_OUT, spec, **reading)
            held = list(kept)
            counts = {"train": _write_rows(train, rows)}
        share = min(_CHOOSING, _MOST_CHOOSING / max(len(held), 1))
        sides = hold_out(held, share, _SPLIT, "the held-out rows", **reading)
        counts |= {"test": _write_rows(test, sides[0]), "choosing": _write_rows(choosing, sides[1])}
        write_json(place / "counts.json", counts)

    def drawn(count: int, seed: int) -> str:
        return drawn_rows(place, source, count, seed, counts["train"])

    return Rows(source, str(test), str(choosing), counts, drawn)


def drawn_rows(place: Path, spec: str, count: int, seed: int, total: int) -> str:
    """A file of rows drawn at random, or the data themselves where all of them are needed."""
    if count >= total:
        return spec
    path = place / f"drawn-{count}-seed{seed}.jsonl"
    if not path.is_file():
        kept = frozenset(Random(seed).sample(range(total), count))  # noqa: S311 - no secret
        _write_rows(path, (row for n, row in enumerate(Source(spec)) if n in kept))
    return str(path)


def _write_rows(path: Path, rows: Iterable[Row]) -> int:
    lines = [_line(row) for row in rows]
    write_text(path, "".join(lines))
    return len(lines)


def _line(row: Row) -> str:
    if row.broken is not None:
        raise row.broken
    try:
        return json.dumps(dict(row.values), ensure_ascii=True) + "\n"
    except (TypeError, ValueError) as error:
        raise DataError(f"JSON cannot hold this row ({error})", where=row.where) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except DataError:
        return {}


# The runs


class _Runs:
    """All processes of a comparison, and what they found."""

    def __init__(self, job: CompareJob, tasks: Tasks, say: Say) -> None:
        self.job, self.tasks, self.say = job, tasks, say
        self.at_once = job.plan.at_once or 1
        self.held_out: dict[str, Any] = {}
        self.outcomes: list[Outcome] = []
        """Of the base model."""
        self.results: list[ArmResult] = []
        self.begun = time.perf_counter()

    def take_all(self) -> None:
        """The base model, the grid or the trial in its place, and every arm."""
        plan, by_flops = self.job.plan, "flops" in self.job.plan.budgets
        wanted = plan.objectives
        if by_flops:
            wanted = list(dict.fromkeys(["orpo", *wanted]))
        grid = self.tasks.grid(wanted) if by_flops or not plan.no_sensitivity else []
        arms = self._arms("steps", {}) if "steps" in plan.budgets else []
        self._run([[self.tasks.base()], *([spec] for spec in grid)], arms)
        if by_flops:
            cells = {cell.name: cell.cost for cell in joining.read_grid(self.job.folder)}
            costs = {n: cells[CENTRE[n]].flops / cells[CENTRE[n]].steps for n in wanted}
            shown = ", ".join(f"{name} {costs[name] / 1e9:,.2f}" for name in wanted)
            self.say(f"measured GFLOPs of a step: {shown}")
            # ORPO's run is the measure of both budgets, and taken once.
            arms = self._arms("flops", costs)
            self._run([], [arm for arm in arms if not (arms and self._is_taken(arm))])
        if not self.outcomes:
            raise ConfigError("no held-out pair has both answers", where="--eval_dataset")

    def _arms(self, budget: str, costs: Mapping[str, float]) -> list[Arm]:
        job = self.job
        return plan_arms(job.plan.methods, budget, job.all_seeds, self.tasks.steps, costs)

    def _is_taken(self, arm: Arm) -> bool:
        there = {(one.arm.method, one.arm.seed) for one in self.results}
        return arm.method == "orpo" and (arm.method, arm.seed) in there

    def _run(self, others: Sequence[list[TaskSpec]], arms: Sequence[Arm]) -> None:
        chains = [*others, *(self.tasks.arm(arm) for arm in arms)]
        self.say(f"{len(chains)} runs, {self.at_once} at a time")
        ended = 0

        def done(number: int, found: list[Found]) -> None:
            nonlocal ended
            ended += 1
            chain = chains[number]
            if chain[0].kind == "base":
                self.held_out, self.outcomes = found[0][0]["held_out"], found[0][1]
            elif chain[0].kind == "stage":
                where = chain[0].folder
                costs = [typed(Cost, facts["cost"], where=where) for facts, _ in found]
                arm = arms[number - len(others)]
                self.results.append(ArmResult(arm, costs, found[-1][1]))
            seconds = time.perf_counter() - self.begun
            self.say(f"{ended} of {len(chains)}, {seconds:.0f} s: {self._told(chain[0])}")

        run_chains(chains, self.at_once, done)

    def _told(self, first: TaskSpec) -> str:
        folder = Path(first.folder).relative_to(self.job.folder)
        if first.kind == "base":
            return "the base model, tested"
        grid = f"{len(first.cells)} short runs ({folder})"
        return grid if first.kind == "grid" else str(folder.parts[0])
