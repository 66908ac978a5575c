"""ORPO beside SFT and SFT+DPO from the same start: every run, and what they say joined."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orpo.data.sources import Source
from orpo.errors import ConfigError, TrainingError
from orpo.evaluate import judge as judging
from orpo.experiments import claims
from orpo.experiments import results as types
from orpo.experiments import tasks as work
from orpo.experiments.claims import ArmResult, Group
from orpo.experiments.measuring import machine
from orpo.experiments.plans import CompareJob, load_checker
from orpo.experiments.results import BASE, COMPARISON, Arm, ComparisonResult, Cost, Outcome
from orpo.experiments.tasks import CENTRE, Tasks, TaskSpec
from orpo.runs.claim import claim_folder
from orpo.runs.files import EVALUATION, REPORT, read_run, write_json, write_jsonl
from orpo.runs.lock import run_lock
from orpo.runs.typed import plain, typed
from orpo.terminal import Say, under_way
from orpo.train.recorder import versions

JUDGMENTS = "judgments.jsonl"
_WRITTEN = (
    *("base", "data", "sensitivity", "figures", "*-seed*"),
    *(EVALUATION, REPORT, "judge-cache.jsonl", JUDGMENTS),
)
_SHOWN = 6


def run_compare(job: CompareJob, *, say: Say, overwrite: bool = False) -> ComparisonResult:
    """Train every method, and put every model to the same test.

    What is finished in the folder is not run again; what was cut off is run from its beginning.

    Args:
        job: What is compared.
        say: Told, line by line, what happens.
        overwrite: Replace another comparison that the folder holds.

    Returns:
        What evaluation.json holds: whether it is evidence, the table, claims, curves, costs, runs
        and settings.

    Raises:
        UserError: Wrong input.
        TrainingError: The base model's test, or every run, broke down.
    """
    started = time.perf_counter()
    if job.plan.checker:
        load_checker(job.plan.checker)
    with run_lock(job.folder):
        named = {"dataset": job.dataset, "eval_dataset": job.train.eval_dataset}
        prints = {name: Source(spec).fingerprint() for name, spec in named.items() if spec}
        settings = {**job.identity(), "data": prints}
        claim_comparison(job.folder, settings, overwrite=overwrite)
        rows = work.prepare_rows(job)
        counts = rows.counts
        say(
            f"{counts['train']} training rows; held out: {counts['test']} pairs for the table, "
            f"{counts['choosing']} others for curves and sensitivity"
        )
        runs = _Runs(job, Tasks(job, rows), say)
        runs.take_all()
        about, runs.results = judge_arms(job, runs.outcomes, runs.results, say)
        result = replace(
            _join(runs),
            settings=settings,
            held_out={**runs.held_out, "choosing": counts["choosing"]},
            judge=about,
            seconds=time.perf_counter() - started,
        )
        write_json(job.folder / EVALUATION, plain(result))
    return result


def claim_comparison(folder: Path, settings: dict[str, Any], *, overwrite: bool) -> None:
    """Make the folder this comparison's, or go on with it."""
    how: dict[str, Any] = {"settings": settings, "overwrite": overwrite, "costly": _WRITTEN}
    claim_folder(folder, COMPARISON, _WRITTEN, mark={"settings": settings}, **how)


class _Runs:
    """All processes of a comparison, and what they found."""

    def __init__(self, job: CompareJob, tasks: Tasks, say: Say) -> None:
        self.job, self.tasks, self.say = job, tasks, say
        self.held_out: dict[str, Any] = {}
        self.outcomes: list[Outcome] = []  # of the base model
        self.cells: list[types.Cell] = []
        self.results: list[ArmResult] = []
        self.broken: dict[str, TrainingError] = {}
        self.begun = time.perf_counter()

    def take_all(self) -> None:
        """The base model, the grid or the trial in its place, and every arm."""
        plan, by_flops = self.job.plan, "flops" in self.job.plan.budgets
        wanted = plan.objectives
        if by_flops:
            wanted = list(dict.fromkeys(["orpo", *wanted]))
        grid = self.tasks.grid(wanted) if by_flops or not plan.no_sensitivity else []
        arms = self._arms("steps", {}) if "steps" in plan.budgets else []
        (base,) = self._run([self.tasks.base(), *grid], arms)[:1]
        self.held_out, self.outcomes = base[0]["held_out"], base[1]
        self.cells = [_cell(one) for spec in grid for one in spec.cells if one.finished()]
        if by_flops:
            cells = {cell.name: cell.cost for cell in self.cells}
            costs = {n: cells[CENTRE[n]].flops / cells[CENTRE[n]].steps for n in wanted}
            shown = ", ".join(f"{name} {costs[name] / 1e9:,.2f}" for name in wanted)
            self.say(f"measured GFLOPs of a step: {shown}")
            # ORPO's run is the measure of both budgets, and taken once.
            taken = bool(self.results)
            arms = self._arms("flops", costs)
            self._run([], [arm for arm in arms if not (taken and arm.method == "orpo")])
        if not self.outcomes:
            raise ConfigError("no held-out pair has both answers", where="--eval_dataset")
        if not self.results:
            raise TrainingError(
                f"no run came to its end; the last broke: {[*self.broken.values()][-1]}"
            )

    def _arms(self, budget: str, costs: Mapping[str, float]) -> list[Arm]:
        job = self.job
        return work.plan_arms(job.plan.methods, budget, job.all_seeds, self.tasks.steps, costs)

    def _run(self, others: Sequence[TaskSpec], arms: Sequence[Arm]) -> list[work.Found]:
        """Run other tasks and arms; what the others found. What arms found is a result."""
        chains = [*([spec] for spec in others), *(self.tasks.arm(arm) for arm in arms)]
        at_once, ended = self.job.plan.at_once or 1, 0
        self.say(f"{len(chains)} runs, {at_once} at a time")

        def tell(number: int) -> None:
            nonlocal ended
            ended += 1
            advance(1)
            first = chains[number][0]
            folder = Path(first.folder).relative_to(self.job.folder)
            what = f"{len(first.cells)} short runs ({folder})" if first.cells else folder.parts[0]
            seconds = time.perf_counter() - self.begun
            self.say(f"{ended} of {len(chains)}, {seconds:.0f} s: {what}")

        with under_way("runs", len(chains)) as advance:
            found = work.run_chains(chains, at_once, tell)
        for arm, stages in zip(arms, found[len(others) :], strict=True):
            if isinstance(stages, TrainingError):
                self.say(f"{arm.name} broke: {stages}")
                self.broken[arm.name] = stages
                continue
            costs = [typed(Cost, facts["cost"], where=arm.name) for facts, _ in stages]
            self.results.append(ArmResult(arm, costs, stages[-1][1]))
        return [one[0] for one in found[: len(others)] if isinstance(one, list)]


def _cell(spec: TaskSpec) -> types.Cell:
    """A short run of the grid: settings, cost, and what came of it."""
    found = spec.finished()
    assert found is not None
    facts, outcomes = found
    name, settings = Path(spec.folder).name, spec.settings
    run = claims.tested(outcomes)
    accuracy = Group("", "", [run]).values("preference_accuracy")
    return types.Cell(
        name=name,
        objective=settings["objective"],
        learning_rate=settings["learning_rate"],
        orpo_alpha=settings["orpo_alpha"] if settings["objective"] == "orpo" else None,
        pairs=len(outcomes),
        cost=typed(Cost, facts["cost"], where=spec.folder),
        **run.means(*claims.TABLED),
        preference_accuracy_interval=claims.level_interval(*accuracy) if accuracy else None,
    )


def judge_arms(
    job: CompareJob, base: Sequence[Outcome], arms: Sequence[ArmResult], say: Say
) -> tuple[dict[str, Any], list[ArmResult]]:
    """Compare every run's answers with the base model's: about the judge, and the results."""
    if job.judge is None:
        return {}, list(arms)
    before = {one.row: one.answer for one in base if one.answer is not None}
    compared = [
        (arm, one.row, judging.Comparison(name, one.prompt, before[one.row], one.answer, group))
        for arm in arms
        for one in arm.outcomes
        for name, group in [(f"{arm.arm.name}/{one.row}", str(one.row))]
        if one.answer is not None and one.row in before
    ]
    if not compared:
        what = "there is no answer to judge"
        raise ConfigError(what, where="--judge", fix="Give --samples above 0.")
    found = judging.compare_pairs(job.judge, [item for _, _, item in compared], say)
    write_jsonl(job.folder / JUDGMENTS, [item.as_dict() for item in found.items])
    said = {item.id: item.preference for item in found.items}
    judged = [
        {row: said[item.id] for own, row, item in compared if own is arm and item.id in said}
        for arm in arms
    ]
    return found.as_dict(), [replace(a, judged=b) for a, b in zip(arms, judged, strict=True)]


def _join(runs: _Runs) -> ComparisonResult:
    """The base model's outcomes, every run and the grid as the result of the comparison."""
    tasks, job, results = runs.tasks, runs.job, runs.results
    base = claims.tested(runs.outcomes)
    alone, at_once = Group(BASE, "", [base]), job.plan.at_once or 1
    groups = [  # in the order asked; ORPO's runs stand in every budget
        Group(method, budget, sorted(own, key=lambda one: one.arm.seed))
        for budget in job.plan.budgets
        for method in job.plan.methods
        for own in [[one for one in results if one.arm.method == method]]
        for own in [[one for one in own if method == "orpo" or one.arm.budget == budget]]
        if len(own) == len(job.all_seeds)  # one that broke stands beside none
    ]
    own = [one for one in runs.cells if one.objective in job.plan.objectives]
    result = ComparisonResult(
        model=str(job.train.model),
        dataset=job.dataset,
        command=job.command,
        methods=list(job.plan.methods),
        budgets=list(job.plan.budgets),
        seeds=job.all_seeds,
        steps=tasks.steps,
        batch=tasks.batch,
        learning_rates=job.rates,
        orpo_alpha=job.config("orpo").orpo_alpha,
        dpo_beta=job.config("dpo").dpo_beta,
        checked=bool(job.plan.checker),
        answered=min(job.train.samples, len(runs.outcomes)),
        table=[claims.summarise(one, alone) for one in (alone, *groups)],
        claims=claims.decide_claims(groups, alone),
        curves=[curve for one in results for curve in _curves(job.folder, one.arm)],
        sensitivity=[] if job.plan.no_sensitivity else own,
        runs=[_run_of(tasks, one) for one in results],
        examples=_examples(base, groups),
        machine=replace(machine(), threads=work.threads_of_each(at_once), at_once=at_once),
        versions=versions(),
        broken={name: str(error) for name, error in runs.broken.items()},
    )
    return claims.judged(result)


def _run_of(tasks: Tasks, result: ArmResult) -> types.RunResult:
    return types.RunResult(
        **vars(result.arm),
        costs=list(result.costs),
        **result.means("preference_accuracy", "correct_answers"),
        commands=[work.train_command(spec) for spec in tasks.arm(result.arm)],
    )


def _curves(folder: Path, arm: Arm) -> list[types.Curve]:
    """Held-out log-probabilities during training: one curve for each stage of a run."""
    curves, before = [], 0
    for stage in arm.stages:
        points = {
            int(line["step"]): types.Point(
                before + int(line["step"]), line["eval_logps/chosen"], line["eval_logps/rejected"]
            )
            for line in read_run(folder / stage.folder).metrics
            if "eval_logps/chosen" in line
        }
        own = list(points.values())
        curves.append(types.Curve(arm.method, arm.budget, arm.seed, stage.objective, own))
        before += stage.steps
    return curves


def _examples(base: ArmResult, groups: Sequence[Group]) -> types.Examples:
    """A few prompts with the answers of every method's first seed, side by side."""
    budget = groups[0].budget if groups else ""
    first = {group.method: group.runs[0] for group in groups if group.budget == budget}
    answers = {
        name: {one.row: one for one in run.outcomes if one.answer is not None}
        for name, run in {BASE: base, **first}.items()
    }
    rows = [row for row in answers[BASE] if all(row in own for own in answers.values())]

    def apart(name: str) -> list[int]:
        told = {row: {getattr(own[row], name) for own in answers.values()} for row in rows}
        return [row for row in rows if len(told[row]) > 1]

    picked = apart("correct") or apart("answer") or rows
    rule = "Prompts that the models answer differently" if apart("answer") else "Prompts"
    examples = [
        types.Example(
            answers[BASE][row].prompt,
            [
                types.Answer(name, own[row].answer, own[row].correct, own[row].reason)
                for name, own in answers.items()
            ],
        )
        for row in picked[:: max(1, len(picked) // _SHOWN)][:_SHOWN]
    ]
    head = f"{rule}, evenly spaced out of {len(picked)}; the first seed's answers"
    return types.Examples(head, examples)
