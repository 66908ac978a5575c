"""The runs of a comparison joined over their folders: the judge's word, and the whole result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from orpo.errors import ConfigError
from orpo.evaluate import judge as judging
from orpo.experiments.claims import (
    VALUES,
    ArmResult,
    Group,
    decide_claims,
    level_interval,
    summarise,
)
from orpo.experiments.compare_plan import CENTRE, CompareJob, Tasks, train_command
from orpo.experiments.comparison import (
    BASE,
    Answer,
    Arm,
    Cell,
    ComparisonResult,
    Cost,
    Curve,
    Example,
    Examples,
    Outcome,
    Point,
    RunResult,
)
from orpo.experiments.measuring import machine
from orpo.experiments.tasks import outcomes_of, threads_of_each
from orpo.runs.files import read_run, write_jsonl
from orpo.runs.reading import read_object
from orpo.runs.typed import typed
from orpo.train.recorder import versions

JUDGMENTS = "judgments.jsonl"
_SHOWN = 6

Say = Callable[[str], None]


def judge_arms(
    job: CompareJob, base: Sequence[Outcome], arms: Sequence[ArmResult], say: Say
) -> tuple[dict[str, Any], list[ArmResult]]:
    """Have every run's answers compared with the base model's, in both orders.

    Returns:
        The judge's settings, canaries, bias and cost; and the results with its preferences.

    Raises:
        ConfigError: The judge cannot be asked, or there is no answer to show it.
    """
    if job.judge is None:
        return {}, list(arms)
    before = {one.row: one.answer for one in base if one.answer is not None}
    items = [
        judging.Comparison(
            f"{result.arm.name}/{one.row}",
            one.prompt,
            before[one.row],
            one.answer,
            group=str(one.row),
        )
        for result in arms
        for one in result.outcomes
        if one.answer is not None and one.row in before
    ]
    if not items:
        what = "there is no answer to judge"
        raise ConfigError(what, where="--judge", fix="Give --samples above 0.")
    found = judging.compare_pairs(job.judge, items, say)
    write_jsonl(job.folder / JUDGMENTS, [item.as_dict() for item in found.items])
    said = {item.id: item.preference for item in found.items}
    judged = []
    for result in arms:
        names = {one.row: f"{result.arm.name}/{one.row}" for one in result.outcomes}
        own = {row: said[name] for row, name in names.items() if name in said}
        judged.append(replace(result, judged=own))
    return found.as_dict(), judged


def join(
    tasks: Tasks, outcomes: Sequence[Outcome], results: Sequence[ArmResult]
) -> ComparisonResult:
    """The base model's outcomes and every run as the result of the comparison."""
    job, base = tasks.job, ArmResult(Arm(BASE, BASE, "", 0), [], outcomes)
    at_once = job.plan.at_once or 1
    alone, groups = Group(BASE, "", [base]), _groups(job, results)
    cells = [one for one in read_grid(job.folder) if one.objective in job.plan.objectives]
    return ComparisonResult(
        model=str(job.train.model),
        dataset=job.dataset,
        command=job.command,
        methods=list(job.plan.methods),
        budgets=list(job.plan.budgets),
        seeds=job.all_seeds,
        steps=tasks.steps,
        batch=tasks.batch,
        learning_rates={name: job.rates[name] for name in CENTRE},
        orpo_alpha=job.config("orpo").orpo_alpha,
        dpo_beta=job.config("dpo").dpo_beta,
        checked=bool(job.plan.checker),
        answered=min(job.train.samples, len(outcomes)),
        table=[summarise(alone, alone), *(summarise(group, alone) for group in groups)],
        claims=decide_claims(groups, alone),
        curves=[curve for result in results for curve in curves_of(job.folder, result.arm)],
        sensitivity=[] if job.plan.no_sensitivity else cells,
        runs=[_run_of(tasks, result) for result in results],
        examples=pick_examples(base, groups),
        machine=replace(machine(), threads=threads_of_each(at_once), at_once=at_once),
        versions=versions(),
    )


def _groups(job: CompareJob, results: Sequence[ArmResult]) -> list[Group]:
    """Methods at budgets, in the order asked; ORPO's runs stand in every budget."""
    return [
        Group(method, budget, sorted(own, key=lambda one: one.arm.seed))
        for budget in job.plan.budgets
        for method in job.plan.methods
        for own in [[r for r in results if r.arm.method == method]]
        for own in [[r for r in own if method == "orpo" or r.arm.budget == budget]]
    ]


def _run_of(tasks: Tasks, result: ArmResult) -> RunResult:
    arm, checked = result.arm, [*result.values("correct_answers").values()]
    return RunResult(
        **{name: getattr(arm, name) for name in ("name", "method", "budget", "seed", "stages")},
        costs=list(result.costs),
        preference_accuracy=sum(one.prefers_chosen for one in result.outcomes)
        / max(len(result.outcomes), 1),
        correct_answers=fmean(checked) if checked else None,
        commands=[train_command(spec) for spec in tasks.arm(arm)],
    )


def curves_of(folder: Path, arm: Arm) -> list[Curve]:
    """Held-out log-probabilities during training: one curve for each stage of a run."""
    curves, before = [], 0
    for stage in arm.stages:
        points = {
            int(line["step"]): Point(
                before + int(line["step"]), line["eval_logps/chosen"], line["eval_logps/rejected"]
            )
            for line in read_run(folder / stage.folder).metrics
            if "eval_logps/chosen" in line
        }
        curves.append(
            Curve(arm.method, arm.budget, arm.seed, stage.objective, list(points.values()))
        )
        before += stage.steps
    return curves


def read_grid(folder: Path) -> list[Cell]:
    """The cells of the sensitivity grid: settings, cost, and what came of them."""
    found = []
    for path in sorted((folder / "sensitivity").glob("*/*-lr*.json")):
        record = read_object(path)
        settings, outcomes = record["cell"]["settings"], outcomes_of(record["outcomes"], path)
        run = ArmResult(Arm(path.stem, "", "", 0), [], outcomes)
        values = {name: [*run.values(name).values()] for name in VALUES}
        accuracy = [[one.prefers_chosen for one in outcomes]]
        found.append(
            Cell(
                name=record["cell"]["name"],
                objective=settings["objective"],
                learning_rate=settings["learning_rate"],
                orpo_alpha=settings.get("orpo_alpha"),
                pairs=len(outcomes),
                cost=typed(Cost, record["cost"], where=str(path)),
                **{name: fmean(own) if own else None for name, own in values.items()},
                preference_accuracy_interval=level_interval(
                    accuracy, [one.prompt for one in outcomes]
                ),
            )
        )
    return found


def pick_examples(base: ArmResult, groups: Sequence[Group]) -> Examples:
    """A few prompts with the answers of every method's first seed, side by side."""
    budget = groups[0].budget if groups else ""
    first = {group.method: group.runs[0] for group in groups if group.budget == budget}
    answers = {
        name: {one.row: one for one in run.outcomes if one.answer is not None}
        for name, run in {BASE: base, **first}.items()
    }
    rows = [row for row in answers[BASE] if all(row in own for own in answers.values())]
    differing = [row for row in rows if len({own[row].correct for own in answers.values()}) > 1]
    texts = [row for row in rows if len({own[row].answer for own in answers.values()}) > 1]
    picked, rule = differing or texts or rows, "Prompts"
    if differing:
        rule = "Prompts on which the checker's word differs between the models"
    elif texts:
        rule = "Prompts that the models answer differently"
    examples = [
        Example(
            answers[BASE][row].prompt,
            [
                Answer(name, own[row].answer, own[row].correct, own[row].reason)
                for name, own in answers.items()
            ],
        )
        for row in picked[:: max(1, len(picked) // _SHOWN)][:_SHOWN]
    ]
    head = f"{rule}, evenly spaced out of {len(picked)}; the first seed's answers"
    return Examples(head, examples)
