"""What an epoch takes: a few real training steps on real pairs, timed."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PrinterCallback

from orpo.config import ORPOConfig
from orpo.data.types import Row
from orpo.errors import DataError
from orpo.jobs.tokenizing import named_tokenizer
from orpo.train.before.memory import measure_memory
from orpo.train.clock import StepClock
from orpo.train.trainer import ORPOTrainer

__all__ = ["measure_training"]

_BATCH = 4
_WARMUP = 1


def measure_training(
    model: str,
    tokenizer: str | None,
    config: ORPOConfig,
    rows: Sequence[Row],
    budget: Mapping[str, float],
) -> tuple[dict[str, float], str]:
    """Take a few steps, and say how long an epoch would take and how much memory.

    Args:
        model: Folder or Hub id of the model; nothing of it is changed on disk.
        tokenizer: The tokenizer, if not the model's.
        config: The settings of the training.
        rows: A sample of the data.
        budget: What the audit counted: "tokens_per_epoch", "longest_positions".

    Returns:
        "tokens_per_second", "seconds_per_epoch", "peak_bytes", and how they were measured.

    Raises:
        UserError: The model cannot be loaded, or none of the rows can be trained on.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        trainer, clock = _trainer(model, tokenizer, config, rows, folder)
        peak = _peak_bytes(trainer, int(budget["longest_positions"]))
        lengths = [_tokens(pair) for pair in trainer.train_dataset]
        trainer.train()
    tokens = sum(lengths[_BATCH * _WARMUP : _BATCH * len(clock.seconds)])
    seconds = sum(clock.seconds[_WARMUP:])
    rate = tokens / seconds
    measured = {
        "tokens_per_second": rate,
        "seconds_per_epoch": budget["tokens_per_epoch"] / rate,
        "peak_bytes": float(peak),
    }
    return measured, (
        f"time: {len(clock.seconds) - _WARMUP} training steps of {_BATCH} pairs of these data took "
        f"{seconds:.2f} s on this machine ({trainer.engine.name} engine, device "
        f"{trainer.args.device}); memory: estimated for micro-batches as they would be cut"
    )


def _trainer(
    model: str, tokenizer: str | None, config: ORPOConfig, rows: Sequence[Row], folder: str
) -> tuple[ORPOTrainer, StepClock]:
    """The trainer that `orpo train` would use, on whole steps of the rows."""
    clock = StepClock()
    settings = copy.copy(config)
    fixed = {
        "output_dir": folder,
        "per_device_train_batch_size": _BATCH,
        "gradient_accumulation_steps": 1,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "on_bad_row": "drop",
        "data_cache": "off",
    }
    for name, value in fixed.items():
        setattr(settings, name, value)
    trainer = ORPOTrainer(
        model=model,
        args=settings,
        train_dataset=list(rows),
        tokenizer=named_tokenizer(tokenizer, config) if tokenizer else None,
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    pairs = len(trainer.train_dataset)
    if pairs < _BATCH * (_WARMUP + 1):
        raise DataError(
            f"{pairs} of {len(rows)} sampled rows can be trained on, too few to measure with",
            where="--measure",
        )
    trainer.args.max_steps = pairs // _BATCH
    return trainer, clock


def _peak_bytes(trainer: ORPOTrainer, longest: int) -> int:
    """The model, and what a step on the largest micro-batch needs beyond it."""
    estimate = measure_memory(
        trainer.model, trainer.engine, trainer.args, trainer.accelerator.autocast
    )
    weights = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
    positions = max(longest, min(estimate.max_tokens, _BATCH * longest))
    peak: int = weights + estimate.needed(positions)
    return peak


def _tokens(pair: Mapping[str, Any]) -> int:
    """Tokens of both sequences, each with its prompt."""
    prompt, chosen, rejected = (
        len(pair[f"{name}_ids"]) for name in ("prompt", "chosen", "rejected")
    )
    return (2 if rejected else 1) * prompt + chosen + rejected
