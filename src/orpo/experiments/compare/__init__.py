"""ORPO beside SFT and SFT+DPO, at equal budget: the plan, what is measured, what it decides."""

from orpo.experiments.compare.claims import HOLDS, OPEN, REFUTED, Claim, decide_claims
from orpo.experiments.compare.outcome import Grader, Outcome, measure_outcomes, outcome_from
from orpo.experiments.compare.plan import (
    BASE,
    BUDGETS,
    METHODS,
    STAGES,
    Arm,
    Stage,
    plan_arms,
    read_names,
)
from orpo.experiments.compare.summary import ArmResult, Cost, Group, summarise

__all__ = [
    "BASE",
    "BUDGETS",
    "HOLDS",
    "METHODS",
    "OPEN",
    "REFUTED",
    "STAGES",
    "Arm",
    "ArmResult",
    "Claim",
    "Cost",
    "Grader",
    "Group",
    "Outcome",
    "Stage",
    "decide_claims",
    "measure_outcomes",
    "outcome_from",
    "plan_arms",
    "read_names",
    "summarise",
]
