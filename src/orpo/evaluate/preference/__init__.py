"""Which answer a model prefers: held-out pairs scored, with intervals, groups and calibration."""

from orpo.evaluate.preference.calibration import calibration
from orpo.evaluate.preference.groups import RowFacts, row_facts
from orpo.evaluate.preference.measures import METRICS, compare, measure
from orpo.evaluate.preference.pairs import ScoredPairs, token_counts
from orpo.evaluate.preference.scoring import score_pairs
from orpo.evaluate.preference.summary import preference_summary
from orpo.evaluate.preference.verdicts import change_of, told

__all__ = [
    "METRICS",
    "RowFacts",
    "ScoredPairs",
    "calibration",
    "change_of",
    "compare",
    "measure",
    "preference_summary",
    "row_facts",
    "score_pairs",
    "token_counts",
    "told",
]
