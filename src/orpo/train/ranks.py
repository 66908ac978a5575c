"""What several ranks agree on: the engine, and who computes which pairs of an optimizer step.

The samplers give every rank as many pairs, not as many tokens. Every rank sees all pairs of the
step (a few kilobytes of token ids) and comes to the same deal by itself; the loss is that of the
whole step whoever computes which part.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from transformers.integrations import is_deepspeed_zero3_enabled

from orpo.config import ORPOConfig
from orpo.data import merge_batches, select_pairs
from orpo.engine import Engine, cut, even_bins, pack_bins, positions_of, select_engine
from orpo.errors import OrpoError

__all__ = ["agreed_engine", "deal", "gathered", "in_entries", "most_of_ranks"]

Batch = dict[str, Tensor]


def agreed_engine(args: ORPOConfig, model: Any) -> tuple[Engine, str]:
    """The engine that the first rank selects, with the line that says why.

    The others may hold no weights yet (FSDP). Only where weights lie on all ranks in pieces
    (DeepSpeed ZeRO-3) do all ranks try the model together.

    Raises:
        ConfigError: On every rank, as on the first.
    """
    half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    asked = (args.engine, model, args.nll_scope, args.device, half)
    if args.world_size == 1 or is_deepspeed_zero3_enabled():
        return select_engine(*asked)
    found: list[Any] = [None]
    if args.process_index == 0:
        try:
            found = [select_engine(*asked)]
        except OrpoError as error:
            found = [error]
    broadcast_object_list(found)
    if isinstance(found[0], OrpoError):
        raise found[0]
    engine, note = found[0]
    return engine, note


def most_of_ranks(number: int, device: torch.device) -> int:
    """The largest of the numbers that the ranks give; every rank must ask."""
    if not torch.distributed.is_initialized():
        return number
    found = torch.tensor(number, device=device)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return int(found)


def gathered(own: Any, ranks: int) -> list[Any]:
    """What every rank brings, in the order of ranks; every rank must ask."""
    if ranks == 1:
        return [own]
    found: list[Any] = [None] * ranks
    torch.distributed.all_gather_object(found, own)
    return found


def deal(samples: list[Batch], engine: Engine, max_tokens: int, ranks: int) -> list[Batch]:
    """This rank's micro-batches of one optimizer step.

    Args:
        samples: This rank's batches of the step.
        engine: Says how many positions a pair takes.
        max_tokens: Positions of a micro-batch.
        ranks: Number of processes.

    Returns:
        Every rank gets as many micro-batches, which wrappers that gather weights rely on; where a
        rank has fewer pairs than that, those of the others are larger than `max_tokens`.
    """
    if not samples:
        return []
    if ranks == 1:
        return cut(samples, engine, max_tokens)
    device = samples[0]["row"].device
    everything = merge_batches(_exchange(merge_batches(samples), ranks))
    sizes = positions_of(everything, engine)
    if len(sizes) < ranks:
        return [merge_batches(samples)]
    hands = even_bins(sizes, ranks)
    counts = [len(pack_bins([sizes[i] for i in hand], max_tokens, engine)) for hand in hands]
    count = min(max(counts), *(len(hand) for hand in hands))
    own = hands[torch.distributed.get_rank()]
    bins = even_bins([sizes[i] for i in own], count, neighbours=engine.pads)
    parts = [select_pairs(everything, [own[i] for i in pairs]) for pairs in bins]
    return [{key: value.to(device) for key, value in part.items()} for part in parts]


def in_entries(parts: list[Batch], entries: int) -> list[list[Batch]]:
    """Micro-batches as so many entries of an optimizer step, in order.

    The last is not empty: in it gradients are exchanged.
    """
    ends = [len(parts) * (i + 1) // entries for i in range(entries)]
    return [parts[first:last] for first, last in zip([0, *ends], ends, strict=False)]


def _exchange(batch: Batch, ranks: int) -> list[Batch]:
    """Every rank's batch, in the order of ranks, without accelerator."""
    found: list[Any] = [None] * ranks
    torch.distributed.all_gather_object(found, {key: value.cpu() for key, value in batch.items()})
    return found
