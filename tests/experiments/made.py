"""Results of runs that never took place, with effects that were put into them."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from orpo.experiments.claims import ArmResult, Group
from orpo.experiments.comparison import BASE, Arm, Cost, Outcome
from orpo.experiments.tasks import plan_arms

PAIRS = 120
COSTS = {"orpo": 2.0, "sft": 1.0, "dpo": 3.0}
FORWARDS = {"orpo": (2, 0), "sft": (1, 0), "dpo": (2, 2)}
Effect = tuple[float, float, float]
"""What a method does to chosen and rejected log-probabilities, and its share of right answers."""

AS_IN_THE_PAPER: dict[str, Effect] = {
    BASE: (0.0, 0.0, 0.4),
    "orpo": (0.3, -0.5, 0.9),
    "sft": (0.3, 0.3, 0.6),
    "sft+dpo": (0.2, -0.2, 0.7),
}


def outcomes(effect: Effect, seed: int, noise: float = 0.05) -> tuple[Outcome, ...]:
    """Held-out pairs, the same ones for every seed, after a method with this effect."""
    pairs, run = Random(0), Random(seed)
    found = []
    for row in range(PAIRS):
        chosen, rejected = pairs.gauss(-1.0, 0.3), pairs.gauss(-1.2, 0.3)
        luck = pairs.random()
        logps = (chosen + effect[0] + run.gauss(0, noise), rejected + effect[1])
        logps = (logps[0], logps[1] + run.gauss(0, noise))
        prompt, answer = f"prompt {row // 2}", f"answer {row}"
        found.append(Outcome(row, prompt, *logps, answer, luck < effect[2], ""))
    return tuple(found)


def stage_costs(arm: Arm, peak: int) -> tuple[Cost, ...]:
    """Counted as an engine would count them; a pair is 16 rows of a step."""
    return tuple(
        Cost(
            objective=stage.objective,
            steps=stage.steps,
            pairs=16 * stage.steps,
            forwards_trained=16 * stage.steps * FORWARDS[stage.objective][0],
            forwards_scored=16 * stage.steps * FORWARDS[stage.objective][1],
            flops=1e9 * stage.steps * COSTS[stage.objective],
            seconds=1.0 * stage.steps,
            idle_bytes=50 * 2**20,
            peak_bytes=(peak + arm.seed) * 2**20,
        )
        for stage in arm.stages
    )


def base_group(effects: Mapping[str, Effect] = AS_IN_THE_PAPER) -> Group:
    found = outcomes(effects[BASE], 0, noise=0.0)
    return Group(BASE, "", (ArmResult(Arm(BASE, BASE, "", 0, []), (), found),))


def groups(
    effects: Mapping[str, Effect] = AS_IN_THE_PAPER,
    *,
    budget: str = "steps",
    seeds: int = 3,
    peaks: Mapping[str, int] | None = None,
) -> list[Group]:
    """Every method at one budget."""
    made: dict[str, list[ArmResult]] = {method: [] for method in effects if method != BASE}
    for arm in plan_arms(list(made), budget, range(1, seeds + 1), 40, COSTS):
        costs = stage_costs(arm, (peaks or {}).get(arm.method, 100))
        made[arm.method].append(ArmResult(arm, costs, outcomes(effects[arm.method], arm.seed)))
    return [Group(method, budget, runs) for method, runs in made.items()]
