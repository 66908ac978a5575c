"""A judge that can be trusted as far as it has been tested: both orders, canaries, intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orpo.lazy import loader

if TYPE_CHECKING:
    from orpo.evaluate.judge.canaries import judge_trust, plant_canaries
    from orpo.evaluate.judge.pairwise import Comparison, compare_pairs
    from orpo.evaluate.judge.replies import Request, complete
    from orpo.evaluate.judge.suspicious import suspicions
    from orpo.evaluate.settings import JudgeSettings

_HOMES = {
    "Comparison": "judge.pairwise",
    "JudgeSettings": "settings",
    "Request": "judge.replies",
    "compare_pairs": "judge.pairwise",
    "complete": "judge.replies",
    "judge_trust": "judge.canaries",
    "plant_canaries": "judge.canaries",
    "suspicions": "judge.suspicious",
}
__all__ = [
    "Comparison",
    "JudgeSettings",
    "Request",
    "compare_pairs",
    "complete",
    "judge_trust",
    "plant_canaries",
    "suspicions",
]

__getattr__ = loader(__name__, {name: f"orpo.evaluate.{home}" for name, home in _HOMES.items()})
