"""Training: a thin trainer over `transformers.Trainer`, its guards and its run folder."""

from orpo.train.card import About, model_card, write_model_card
from orpo.train.checkpoints import explain_write_error, read_state
from orpo.train.models import (
    load_adapter,
    load_model,
    load_tokenizer,
    prepare_tokenizer,
)
from orpo.train.recorder import versions
from orpo.train.signals import StopOnSignal, StopRequested
from orpo.train.trainer import ORPOTrainer
from orpo.train.work import WORK, Work

__all__ = [
    "WORK",
    "About",
    "ORPOTrainer",
    "StopOnSignal",
    "StopRequested",
    "Work",
    "explain_write_error",
    "load_adapter",
    "load_model",
    "load_tokenizer",
    "model_card",
    "prepare_tokenizer",
    "read_state",
    "versions",
    "write_model_card",
]
