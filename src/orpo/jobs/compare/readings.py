"""What the runs of a comparison left in their folders: curves, and the cells of the grid."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from orpo.experiments.compare import ArmResult, outcome_from
from orpo.experiments.compare.intervals import level_interval
from orpo.experiments.compare.summary import VALUES
from orpo.runs import read_object, read_run

__all__ = ["curve_of", "read_grid"]


def curve_of(folder: Path, result: ArmResult) -> list[dict[str, Any]]:
    """Held-out log-probabilities during training: one curve for each stage of a run.

    Returns:
        For each stage {method, budget, seed, objective, points}; a point is {step, chosen,
        rejected}, steps counted over all stages, values per token.
    """
    arm, before = result.arm, 0
    curves = []
    for stage in arm.stages:
        points = {
            int(line["step"]): {
                "step": before + int(line["step"]),
                "chosen": line["eval_logps/chosen"],
                "rejected": line["eval_logps/rejected"],
            }
            for line in read_run(folder / stage.folder).metrics
            if "eval_logps/chosen" in line
        }
        about = {"method": arm.method, "budget": arm.budget, "seed": arm.seed}
        curves.append({**about, "objective": stage.objective, "points": list(points.values())})
        before += stage.steps
    return curves


def read_grid(folder: Path) -> list[dict[str, Any]]:
    """The cells of the sensitivity grid: settings, cost, and what came of them."""
    found = []
    for path in sorted((folder / "sensitivity").glob("*/*-lr*.json")):
        cell = read_object(path)
        outcomes = [outcome_from(one) for one in cell["outcomes"]]
        settings = cell["cell"]["settings"]
        row = {
            "name": cell["cell"]["name"],
            "objective": settings["objective"],
            "learning_rate": settings["learning_rate"],
            "orpo_alpha": settings.get("orpo_alpha"),
            "pairs": len(outcomes),
            "cost": cell["cost"],
        }
        for name, read in VALUES.items():
            values = [value for value in map(read, outcomes) if value is not None]
            row[name] = statistics.fmean(values) if values else None
        accuracy = [[outcome.prefers_chosen for outcome in outcomes]]
        interval = level_interval(accuracy, [outcome.prompt for outcome in outcomes])
        found.append({**row, "preference_accuracy_interval": interval.as_dict()})
    return found
