"""A judge that can be trusted as far as it has been tested: both orders, canaries, intervals."""

from orpo.evaluate.judge.canaries import (
    CANARIES,
    Canary,
    Outcome,
    Trust,
    judge_trust,
    plant_canaries,
)
from orpo.evaluate.judge.client import complete
from orpo.evaluate.judge.cost import Estimate, Spend, estimate, spend
from orpo.evaluate.judge.fences import conversation, excerpt, fenced, harmless, nonce_for
from orpo.evaluate.judge.pair_result import PairVerdict, PairwiseResult
from orpo.evaluate.judge.pairwise import compare_pairs
from orpo.evaluate.judge.prompts import GradingPrompts, OwnGrading
from orpo.evaluate.judge.single import grade_answers
from orpo.evaluate.judge.single_result import GradedAnswer, SingleResult
from orpo.evaluate.judge.suspicions import CONSTANT, EMPTY, FORGED, TALKS, suspicions
from orpo.evaluate.judge.types import (
    Chat,
    Comparison,
    JudgeSettings,
    Reply,
    Request,
    Say,
    Single,
)

__all__ = [
    "CANARIES",
    "CONSTANT",
    "EMPTY",
    "FORGED",
    "TALKS",
    "Canary",
    "Chat",
    "Comparison",
    "Estimate",
    "GradedAnswer",
    "GradingPrompts",
    "JudgeSettings",
    "Outcome",
    "OwnGrading",
    "PairVerdict",
    "PairwiseResult",
    "Reply",
    "Request",
    "Say",
    "Single",
    "SingleResult",
    "Spend",
    "Trust",
    "compare_pairs",
    "complete",
    "conversation",
    "estimate",
    "excerpt",
    "fenced",
    "grade_answers",
    "harmless",
    "judge_trust",
    "nonce_for",
    "plant_canaries",
    "spend",
    "suspicions",
]
