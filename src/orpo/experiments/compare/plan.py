"""Which runs a comparison consists of, and when two of them have cost the same.

Two budgets: as many optimizer steps, or as many floating-point operations, as ORPO's run takes.
SFT+DPO has two stages and divides either budget between them so that both take equally many steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orpo.errors import ConfigError

__all__ = ["BASE", "BUDGETS", "METHODS", "STAGES", "Arm", "Stage", "plan_arms", "read_names"]

BASE = "base"
METHODS = ("orpo", "sft", "sft+dpo")
BUDGETS = ("steps", "flops")
STAGES: Mapping[str, tuple[str, ...]] = {
    "orpo": ("orpo",),
    "sft": ("sft",),
    "sft+dpo": ("sft", "dpo"),
}
"""Method -> the objective of each of its stages, in order."""


@dataclass(frozen=True)
class Stage:
    """One training run of an arm.

    Attributes:
        objective: "orpo", "sft" or "dpo".
        steps: Optimizer steps.
        folder: Its run folder, within the comparison's.
        start: Folder within the comparison's of the model it starts from; empty for the base.
    """

    objective: str
    steps: int
    folder: str
    start: str = ""


@dataclass(frozen=True)
class Arm:
    """One method, trained once.

    Attributes:
        method: One of `METHODS`.
        budget: One of `BUDGETS`; ORPO's run is the measure of both.
        seed: Of the order of the data, and of an adapter's first weights.
        stages: What it consists of; the last one's folder holds its model.
    """

    method: str
    budget: str
    seed: int
    stages: tuple[Stage, ...]

    @property
    def name(self) -> str:
        """Its folder within the comparison's."""
        return arm_name(self.method, self.budget, self.seed)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"name": self.name, **asdict(self)}


def arm_name(method: str, budget: str, seed: int) -> str:
    """METHOD-BUDGET-seedN."""
    return f"{method}-{budget}-seed{seed}"


def read_names(text: str, choices: Sequence[str], where: str) -> tuple[str, ...]:
    """Names given by comma, each of them one of the choices.

    Raises:
        ConfigError: One is unknown or given twice, or there is none.
    """
    names = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    for name in names:
        if name not in choices:
            raise ConfigError(f"{name!r} is none of {', '.join(choices)}", where=where)
    if not names or len(set(names)) < len(names):
        raise ConfigError("needs different names, at least one", where=where)
    return names


def plan_arms(
    methods: Sequence[str],
    budget: str,
    seeds: Sequence[int],
    steps: int,
    costs: Mapping[str, float],
) -> list[Arm]:
    """The runs of one budget.

    Args:
        methods: Some of `METHODS`.
        budget: One of `BUDGETS`.
        seeds: One arm of each method for each.
        steps: Optimizer steps of ORPO's run.
        costs: Objective -> floating-point operations of a step, all that belongs to it included;
            not asked for with the budget "steps".

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
    if budget == "flops":
        of_all = sum(costs[objective] for objective in objectives)
        each = round(steps * costs["orpo"] / of_all)
    else:
        each = steps // len(objectives)
    if each < 1:
        raise ConfigError(
            f"{steps} steps cannot be divided between the stages of {method}",
            where="--max_steps",
            fix=f"Give at least {2 * len(objectives)}.",
        )
    return each


def _arm(method: str, budget: str, seed: int, steps: int) -> Arm:
    name, stages = arm_name(method, budget, seed), STAGES[method]
    if len(stages) == 1:
        return Arm(method, budget, seed, (Stage(stages[0], steps, name),))
    folders = [f"{name}/{objective}" for objective in stages]
    return Arm(
        method,
        budget,
        seed,
        tuple(
            Stage(objective, steps, folder, start)
            for objective, folder, start in zip(stages, folders, ["", *folders], strict=False)
        ),
    )
