"""Before the first step: does the longest pair fit into the memory that is there?"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
from torch import nn
from transformers import TrainingArguments

from orpo.config import ORPOConfig
from orpo.engine import Engine, MemoryEstimate, Precision, can_compile, estimate_memory, pays
from orpo.errors import ConfigError

__all__ = [
    "LongestPair",
    "Plan",
    "check_memory",
    "longest_pair",
    "make_plan",
    "measure_memory",
    "optimizer_bytes",
    "pair_lengths",
]

_STATE_BYTES = {"8bit": 2, "4bit": 1, "adafactor": 0, "sgd": 0, "lomo": 0, "rmsprop": 4}
"""Bytes of optimizer states per trained parameter, by what is in the optimizer's name."""
_ADAM = 8


@dataclass(frozen=True)
class LongestPair:
    """The pair that takes the most positions.

    Attributes:
        row: Its row in the data set.
        positions: Positions that it takes up in the model.
        tokens: Tokens of its longer sequence, which `max_length` limits.
    """

    row: int
    positions: int
    tokens: int


@dataclass(frozen=True)
class Plan:
    """How a run will go through its pairs.

    Attributes:
        max_tokens: Positions of a micro-batch that memory allows for and speed asks for.
        compile_blocks: Whether the run is long enough to compile parts of the model.
    """

    max_tokens: int
    compile_blocks: bool


def make_plan(
    model: nn.Module, engine: Engine, args: ORPOConfig, dataset: Any, autocast: Precision
) -> Plan:
    """Measure the model, look at the data, and decide.

    Raises:
        ConfigError: The run cannot fit into the memory that is there.
    """
    estimate = _among_ranks(measure_memory(model, engine, args, autocast), model)
    lengths = pair_lengths(dataset)
    if lengths is not None and args.objective == "sft":
        lengths[:, 2] = 0  # rejected answers stay out of the model
    check_memory(estimate, _longest(lengths, engine))
    wanted = args.compile_blocks
    if wanted is None:
        on_cpu = estimate.device == "cpu" and bool(args.bf16)
        wanted = on_cpu and pays(_operations(model, args, lengths))
    return Plan(estimate.max_tokens, bool(wanted) and can_compile(estimate.device))


def _operations(model: nn.Module, args: ORPOConfig, lengths: Any) -> float:
    """Floating point operations of the run, roughly; none if nobody knows how long it is."""
    if lengths is None or not len(lengths):
        return 0.0
    step = args.per_device_train_batch_size * args.gradient_accumulation_steps
    pairs = step * args.max_steps if args.max_steps > 0 else args.num_train_epochs * len(lengths)
    body = sum(p.numel() for p in model.parameters())
    return float(6.0 * body * pairs * lengths[:, :3].sum(1).mean())


def longest_pair(dataset: Any, engine: Engine) -> LongestPair | None:
    """The longest pair of a prepared data set; None for a stream, which must be read to know."""
    return _longest(pair_lengths(dataset), engine)


def _longest(lengths: Any, engine: Engine) -> LongestPair | None:
    if lengths is None or not len(lengths):
        return None
    positions = [engine.positions(int(p), int(c), int(r)) for p, c, r, _ in lengths]
    longest = int(np.argmax(positions))
    prompt, chosen, rejected, row = (int(x) for x in lengths[longest])
    return LongestPair(row, positions[longest], prompt + max(chosen, rejected))


def measure_memory(
    model: nn.Module, engine: Engine, args: ORPOConfig, autocast: Precision
) -> MemoryEstimate:
    """What a step of this run will need.

    Args:
        model: Not wrapped yet, on its device.
        engine: The engine that will be used.
        args: The settings.
        autocast: The precision in which the model will run.
    """
    size = optimizer_bytes(args)
    return estimate_memory(
        model,
        engine.head,
        lambda count: size * count,
        autocast,
        checkpointing=bool(args.gradient_checkpointing),
    )


def _among_ranks(estimate: MemoryEstimate, model: nn.Module) -> MemoryEstimate:
    """Ranks on one machine share its memory, and DDP keeps the gradients once more."""
    if int(os.environ.get("WORLD_SIZE") or 1) == 1:
        return estimate
    trained = (p for p in model.parameters() if p.requires_grad)
    buckets = sum(p.numel() * p.element_size() for p in trained)
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE") or 1) if estimate.device == "cpu" else 1
    return replace(
        estimate, fixed=estimate.fixed + buckets, available=estimate.available // neighbours
    )


def check_memory(estimate: MemoryEstimate, longest: LongestPair | None) -> None:
    """Refuse a run that cannot fit.

    Raises:
        ConfigError: Not even one position fits, or the longest pair does not; names its row.
    """
    if estimate.needed(1) > estimate.available:
        raise ConfigError(
            f"training needs about {_gib(estimate.fixed)} for gradients, optimizer states and "
            f"work space, and {_gib(estimate.available)} are there",
            where="memory",
            fix="Train an adapter (--lora_r, peft_config), optim=adamw_8bit, or a smaller model.",
        )
    if longest is None or estimate.needed(longest.positions) <= estimate.available:
        return
    room = (estimate.available - estimate.fixed) // estimate.per_position
    raise ConfigError(
        f"a pair of {longest.positions} positions needs about "
        f"{_gib(estimate.needed(longest.positions))}, and {_gib(estimate.available)} are there",
        where=f"train_dataset, row {longest.row}",
        fix=f"Set max_length to about {int(longest.tokens * room / longest.positions)}, or use "
        "gradient_checkpointing, an adapter (--lora_r, peft_config), or bf16.",
    )


def pair_lengths(dataset: Any) -> Any:
    """(pairs, 4) int64: tokens of prompt, chosen and rejected answer, and the row."""
    if isinstance(dataset, datasets.Dataset):
        table = dataset.data.table if dataset._indices is None else dataset.flatten_indices().data
        columns = [pc.list_value_length(table.column(f"{n}_ids")) for n in _SIDES]
        columns.append(table.column("row"))
        return np.stack([np.asarray(column, dtype=np.int64) for column in columns], axis=1)
    if hasattr(dataset, "__len__") and isinstance(dataset, Iterable):
        found = [[*(len(pair[f"{n}_ids"]) for n in _SIDES), pair["row"]] for pair in dataset]
        return np.asarray(found, dtype=np.int64)
    return None


_SIDES = ("prompt", "chosen", "rejected")


def optimizer_bytes(args: TrainingArguments) -> int:
    """Bytes of optimizer states per trained parameter in fp32."""
    name = str(getattr(args.optim, "value", args.optim))
    return next((size for part, size in _STATE_BYTES.items() if part in name), _ADAM)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
