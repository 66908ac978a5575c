"""Odds Ratio Preference Optimization: one stage, no reference model.

    from orpo import ORPOConfig, ORPOTrainer

The public names are loaded when they are first used, so that `orpo --help` answers at once.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from orpo.lazy import loader

if TYPE_CHECKING:
    from orpo.config import ORPOConfig
    from orpo.errors import (
        ConfigError,
        DataError,
        ModelError,
        NonFiniteError,
        OrpoError,
        TrainingError,
        UserError,
    )
    from orpo.objective.dpo import DPOLoss, dpo_loss
    from orpo.objective.log_odds import log_odds
    from orpo.objective.orpo import ORPOLoss, orpo_loss
    from orpo.objective.sft import SFTLoss, sft_loss
    from orpo.train.trainer import ORPOTrainer

__version__ = "0.1.0"

# Without accelerator a step takes and gives back hundreds of MB, and on pages of 4 KB their faults
# take a tenth of a step on one pair. torch reads this at its first large tensor; 0 is off.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# oneDNN and torch keep compiled products by their shape, 1,024 each. Rows differ in length, so that
# few come again in a later step: with 128 a step takes no longer, and half a GiB less.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
os.environ.setdefault("LRU_CACHE_CAPACITY", "128")

_HOMES = {
    "ORPOConfig": "orpo.config",
    "ORPOTrainer": "orpo.train.trainer",
    "DPOLoss": "orpo.objective.dpo",
    "ORPOLoss": "orpo.objective.orpo",
    "SFTLoss": "orpo.objective.sft",
    "dpo_loss": "orpo.objective.dpo",
    "log_odds": "orpo.objective.log_odds",
    "orpo_loss": "orpo.objective.orpo",
    "sft_loss": "orpo.objective.sft",
}

__all__ = [
    "ConfigError",
    "DPOLoss",
    "DataError",
    "ModelError",
    "NonFiniteError",
    "ORPOConfig",
    "ORPOLoss",
    "ORPOTrainer",
    "OrpoError",
    "SFTLoss",
    "TrainingError",
    "UserError",
    "dpo_loss",
    "log_odds",
    "orpo_loss",
    "sft_loss",
]

__getattr__ = loader(__name__, {**dict.fromkeys(__all__, "orpo.errors"), **_HOMES})


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
