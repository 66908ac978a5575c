"""A judge that can be trusted as far as it has been tested: both orders, canaries, intervals."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

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


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"orpo.evaluate.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'orpo.evaluate.judge' has no attribute {name!r}")
