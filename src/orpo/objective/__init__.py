"""The mathematics, as pure functions from tensors to one named result."""

from orpo.objective.dpo import DPOLoss, dpo_loss
from orpo.objective.log_odds import log1mexp, log_odds
from orpo.objective.orpo import ORPOLoss, orpo_loss
from orpo.objective.sft import SFTLoss, sft_loss
from orpo.objective.types import PairLogps

__all__ = [
    "DPOLoss",
    "ORPOLoss",
    "PairLogps",
    "SFTLoss",
    "dpo_loss",
    "log1mexp",
    "log_odds",
    "orpo_loss",
    "sft_loss",
]
