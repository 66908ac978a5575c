"""What several ranks agree on: the engine, and who computes which pairs of an optimizer step.

The samplers give every rank as many pairs, not as many tokens. Every rank sees all pairs of the
step (a few kilobytes of token ids) and comes to the same deal by itself; the loss is that of the
whole step whoever computes which part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from transformers.integrations import is_deepspeed_zero3_enabled

from orpo.config import ORPOConfig
from orpo.data.pack import merge_batches, select_pairs
from orpo.engine.look import Look, freeze, look_through, make_steady
from orpo.engine.microbatch import cut, even_bins, pack_bins, positions_of
from orpo.engine.select import select_engine
from orpo.engine.types import Engine
from orpo.errors import ModelError, OrpoError

Batch = dict[str, Tensor]


def agreed_engine(args: ORPOConfig, model: Any) -> tuple[Engine, list[str]]:
    """The engine that the first rank selects, with lines that say why; the model is made ready.

    The others may hold no weights yet (FSDP). Only where weights lie on all ranks in pieces
    (DeepSpeed ZeRO-3) do all ranks try the model together.
    """
    half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    asked = (args.engine, model, args.nll_scope, args.device, half)

    def choose() -> tuple[Look, Engine, str]:
        look = look_through(model)
        _make_ready(model, look, args)
        rest = look_through(model).random if look.random and args.disable_dropout else []
        if rest:
            raise ModelError(
                f"{_kinds(model, rest)} draws random numbers whether it is trained or not, so that "
                "the two answers of a pair would not be scored by the same network",
                where=type(model).__name__,
                fix="Use a model that gives the same text the same numbers.",
            )
        return look, *select_engine(*asked, training=args.disable_dropout)

    if args.world_size == 1 or is_deepspeed_zero3_enabled():
        look, engine, note = choose()
    else:
        found: list[Any] = [None]
        if args.process_index == 0:
            try:
                found = [choose()]
            except OrpoError as error:
                found = [error]
        broadcast_object_list(found)
        if isinstance(found[0], OrpoError):
            raise found[0]
        look, engine, note = found[0]
        if args.process_index != 0:
            _make_ready(model, look, args)
    return engine, [*_said(model, look, args), note]


def _kinds(model: Any, names: Iterable[str]) -> str:
    return ", ".join(sorted({type(model.get_submodule(name)).__name__ for name in names}))


def _make_ready(model: Any, look: Look, args: ORPOConfig) -> None:
    if args.disable_dropout:
        make_steady(model, look.random)
    freeze(model, look.unreached)


def _said(model: Any, look: Look, args: ORPOConfig) -> list[str]:
    """What was found out about the model, a line each."""
    said = []
    kinds = _kinds(model, look.random)
    if look.random and args.disable_dropout:
        said.append(f"{kinds} draws random numbers in training: off, as every dropout is")
    elif look.random:
        said.append(
            f"{kinds} draws random numbers for whatever is computed together: "
            "numbers depend on how pairs are dealt out to micro-batches"
        )
    if look.unreached:
        weights = sum(model.get_parameter(name).numel() for name in look.unreached)
        said.append(f"{weights} weights that no text reaches (images, sound) are not trained")
    return said


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
    """This rank's micro-batches of one optimizer step."""
    if not samples:
        return []
    if ranks == 1:
        return cut(samples, engine, max_tokens)
    device = samples[0]["row"].device
    own_batch = {key: value.cpu() for key, value in merge_batches(samples).items()}
    everything = merge_batches(gathered(own_batch, ranks))  # without accelerator
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


def score_batch(trainer: Any, inputs: Batch, score: Callable[[Batch], Tensor]) -> Tensor:
    """What `score` finds for the pairs of a batch, (pairs, columns)."""
    rows = inputs["row"]
    batch = {**inputs, "position": torch.arange(len(rows), device=rows.device)}
    parts = cut([batch], trainer.engine, trainer._max_tokens)
    # Where weights lie in pieces, every rank takes as many passes; what is done twice is left.
    passes = most_of_ranks(len(parts), rows.device) if trainer._in_pieces else len(parts)
    tables = [score(part) for part in [*parts, *[parts[-1]] * (passes - len(parts))]]
    order = torch.cat([part["position"] for part in parts]).argsort()
    return torch.cat(tables[: len(parts)])[order]
