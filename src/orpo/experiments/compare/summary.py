"""From outcomes and costs of runs to one row of the table for each method and budget."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orpo.evaluate.intervals import Interval
from orpo.experiments.compare.intervals import Runs, change_interval, level_interval
from orpo.experiments.compare.outcome import Outcome
from orpo.experiments.compare.plan import Arm

__all__ = ["VALUES", "ArmResult", "Cost", "Group", "summarise"]


@dataclass(frozen=True)
class Cost:
    """What a training stage cost, as counted and measured in its own process.

    Attributes:
        objective: "orpo", "sft" or "dpo".
        steps: Optimizer steps.
        pairs: Rows trained on.
        forwards_trained: Answers that went forward and backward, each with its prompt.
        forwards_scored: Answers that went forward only: DPO's reference.
        flops: Floating-point operations of both.
        seconds: Of the steps and of what they need before them; no evaluation, no loading.
        idle_bytes: Memory at rest, the model loaded.
        peak_bytes: The most memory held from there to the end of the training.
    """

    objective: str
    steps: int
    pairs: int
    forwards_trained: int
    forwards_scored: int
    flops: float
    seconds: float
    idle_bytes: int
    peak_bytes: int

    @property
    def forwards(self) -> int:
        """Answers that went forward, with or without a way back."""
        return self.forwards_trained + self.forwards_scored


@dataclass(frozen=True)
class ArmResult:
    """A finished run of a method.

    Attributes:
        arm: What it was.
        costs: Of its stages, in order.
        outcomes: Of its model, in the order of the held-out pairs.
        judged: Row of a held-out pair -> a judge's preference for this model's answer over the
            base model's, from 0 to 1; rows without a verdict are absent.
    """

    arm: Arm
    costs: tuple[Cost, ...]
    outcomes: tuple[Outcome, ...]
    judged: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """All seeds of a method at a budget.

    Attributes:
        method: Or `BASE`, which has no costs and one run.
        budget: Or empty for the base.
        runs: One for each seed, in the same order in every group.
    """

    method: str
    budget: str
    runs: tuple[ArmResult, ...]

    def values(self, name: str) -> tuple[Runs, list[str]] | None:
        """(runs x pairs) of one of `VALUES`, and the pairs' prompts; None where there are none.

        Only pairs that have the value in every run count, so that each run has the same.
        """
        found = [{o.row: VALUES[name](o) for o in run.outcomes} for run in self.runs]
        prompts = {o.row: o.prompt for o in self.runs[0].outcomes}
        rows = [row for row in prompts if all(run.get(row) is not None for run in found)]
        if not rows:
            return None
        return [[float(run[row]) for row in rows] for run in found], [prompts[r] for r in rows]

    def judged(self) -> tuple[Runs, list[str]] | None:
        """As `values`, of the judge's preferences."""
        prompts = {o.row: o.prompt for o in self.runs[0].outcomes}
        rows = [row for row in prompts if all(row in run.judged for run in self.runs)]
        if not rows:
            return None
        return [[run.judged[row] for row in rows] for run in self.runs], [prompts[r] for r in rows]

    def stages(self) -> list[list[Cost]]:
        """For each stage, its costs in the order of the runs."""
        return [list(costs) for costs in zip(*(run.costs for run in self.runs), strict=True)]


def _correct(outcome: Outcome) -> float | None:
    return None if outcome.correct is None else float(outcome.correct)


VALUES: Mapping[str, Any] = {
    "preference_accuracy": lambda outcome: outcome.prefers_chosen,
    "correct_answers": _correct,
    "chosen_logps": lambda outcome: outcome.chosen_logps,
    "rejected_logps": lambda outcome: outcome.rejected_logps,
    "margin": lambda outcome: outcome.chosen_logps - outcome.rejected_logps,
}
"""What is read from each held-out pair; the log-probabilities are per token."""


def compared(before: Group, after: Group, name: str) -> Interval | None:
    """How much higher a value is in one group than in another, on the same pairs and seeds."""
    first, second = (
        group.judged() if name == "judged" else group.values(name) for group in (before, after)
    )
    if first is None or second is None or first[1] != second[1]:
        return None
    return change_interval(first[0], second[0], first[1])


def summarise(group: Group, base: Group) -> dict[str, Any]:
    """A row of the table, ready for JSON."""
    row: dict[str, Any] = {
        "method": group.method,
        "budget": group.budget,
        "seeds": [run.arm.seed for run in group.runs if group.budget],
        "pairs": len(group.runs[0].outcomes),
    }
    for name in VALUES:
        found = group.values(name)
        row[name] = None if found is None else level_interval(*found).as_dict()
        change = compared(base, group, name) if group is not base and found else None
        row[f"{name}_change"] = None if change is None else change.as_dict()
    judged = group.judged()
    row["judged"] = None if judged is None else level_interval(*judged).as_dict()
    row["cost"] = _cost(group) if group.budget else None
    return row


def _cost(group: Group) -> dict[str, Any]:
    """Means over seeds; memory is the largest of the stages, which run one after the other."""
    stages = [_mean_cost(costs) for costs in group.stages()]
    peaks = [max(cost.peak_bytes for cost in run.costs) for run in group.runs]
    over_idle = [max(cost.peak_bytes - cost.idle_bytes for cost in r.costs) for r in group.runs]
    return {
        "stages": stages,
        **{
            name: sum(stage[name] for stage in stages)
            for name in ("steps", "pairs", "forwards", "flops", "seconds")
        },
        "peak_bytes": statistics.fmean(peaks),
        "peak_bytes_by_seed": peaks,
        "beyond_idle_bytes": statistics.fmean(over_idle),
        "seconds_by_seed": [math.fsum(cost.seconds for cost in r.costs) for r in group.runs],
    }


def _mean_cost(costs: Sequence[Cost]) -> dict[str, Any]:
    names = ("steps", "pairs", "forwards", "flops", "seconds", "peak_bytes", "idle_bytes")
    means = {name: statistics.fmean(getattr(cost, name) for cost in costs) for name in names}
    scored = statistics.fmean(cost.forwards_scored for cost in costs)
    return {"objective": costs[0].objective, **means, "forwards_scored": scored}
