"""Many devices: what ranks agree on, and what wrappers of the model (FSDP2, DeepSpeed) need.

The samplers give every rank as many pairs, not as many tokens. Every rank sees all pairs of the
step (a few kilobytes of token ids) and comes to the same deal by itself; the loss is that of the
whole step whoever computes which part.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.nn.utils import clip_grads_with_norm_
from transformers import Trainer
from transformers.integrations import deepspeed_init, is_deepspeed_zero3_enabled

from orpo.config import ORPOConfig
from orpo.data.pack import merge_batches, select_pairs
from orpo.engine.compiling import compile_blocks, compile_head, share_casts, uncompile_blocks
from orpo.engine.look import Look, freeze, look_through, make_steady
from orpo.engine.memory import keep_freed_memory
from orpo.engine.microbatch import cut, even_bins, pack_bins, positions_of
from orpo.engine.padded import ApartEngine
from orpo.engine.select import select_engine
from orpo.engine.types import Engine
from orpo.errors import ConfigError, ModelError
from orpo.train.checkpoints import told_by_the_first_rank


def exchange_gradients(trainer: Trainer, guard: Any) -> None:
    """Have gradients clipped with the guard's norm where it is the same: one pass less.

    The guard takes note of every norm by which they are clipped: an infinite one makes NaNs.
    """
    accelerator: Any = trainer.accelerator
    if trainer.is_fsdp_enabled:
        # Exchanged after every micro-batch, of which each rank keeps its piece only: left until
        # the end of the step, they would lie on every rank for the whole model.
        accelerator.gradient_state.plugin_kwargs["sync_each_batch"] = True
    clip = accelerator.clip_grad_norm_
    whole = {DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU}

    def clipped(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
        norm = guard.total_norm()
        if norm is None or accelerator.distributed_type not in whole:
            norm = clip(parameters, max_norm, *args, **kwargs)
        else:
            clip_grads_with_norm_(parameters, max_norm, norm)
        guard.watch_norm(norm)
        return norm

    accelerator.clip_grad_norm_ = clipped


def prepare_uneven_passes(trainer: Trainer, engine: Engine, args: ORPOConfig) -> None:
    """See to it that ranks do not wait for each other in passes of which one may have more."""
    if not isinstance(engine, ApartEngine):
        return
    room = min((border.tokens for border in engine.borders), default=0)
    apart = engine.alone or args.max_length is None or args.max_length > room
    if apart and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        without = "train without FSDP and DeepSpeed."
        raise ConfigError(
            "what the model makes of a sequence depends on those beside it, and weights that lie "
            "in pieces need as many passes on every rank",
            where="max_length" if room else "model",
            fix=f"Set max_length to {room}, or {without}" if room else without.capitalize(),
        )
    handler = trainer.accelerator.ddp_handler
    if handler is not None:
        handler.broadcast_buffers = False  # which DDP does in every pass


@contextlib.contextmanager
def gathering(trainer: Trainer, model: nn.Module) -> Iterator[None]:
    """Around a micro-batch that others of the same step follow."""
    state = trainer.accelerator.gradient_state
    if trainer.is_fsdp_enabled:
        yield
    elif trainer.is_deepspeed_enabled:
        ends = state.sync_gradients
        state._set_sync_gradients(False)  # or DeepSpeed's engine would take its step
        try:
            yield
        finally:
            state._set_sync_gradients(ends)
    else:
        with trainer.accelerator.no_sync(model=model):
            yield


@contextlib.contextmanager
def scoring(trainer: Trainer) -> Iterator[None]:
    """Within it the model can score and generate under any wrapper, also ahead of training.

    FSDP2 divides the weights once and for all. DeepSpeed's ZeRO-3 gets an engine for the time
    being; its lower stages leave the weights whole and are not needed. Nor is DDP, but accelerate
    has to be made to forget the model: it would take it for wrapped when training begins, and
    every rank would train on its own.
    """
    _divide(trainer)
    if not trainer.is_deepspeed_enabled or trainer.deepspeed is not None:
        try:
            yield
        finally:
            _forget(trainer)
    elif is_deepspeed_zero3_enabled():
        deepspeed_init(trainer, num_training_steps=0, inference=True)
        engine = trainer.accelerator.prepare(trainer.model)
        trainer.deepspeed = trainer.model_wrapped = engine
        try:
            yield
        finally:
            engine.destroy()
            trainer.deepspeed, trainer.model_wrapped = None, trainer.model
            trainer.accelerator._models.clear()
    else:
        trainer.model.to(trainer.args.device)
        trainer.is_deepspeed_enabled = False
        try:
            yield
        finally:
            trainer.is_deepspeed_enabled = True
            _forget(trainer)


def _forget(trainer: Trainer) -> None:
    """Undo what accelerate did to a model that several ranks have scored and not trained yet."""
    ahead_of_training = trainer.model_wrapped is trainer.model
    if trainer.args.world_size == 1 or not ahead_of_training or trainer.is_fsdp_enabled:
        return
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    trainer.model._is_accelerate_prepared = False
    trainer.accelerator._models.clear()


def _divide(trainer: Trainer) -> None:
    """Give every rank its piece of the weights where FSDP2 is asked for, unless it has it."""
    if not trainer.accelerator.is_fsdp2 or isinstance(trainer.model, FSDPModule):
        return
    # Accelerate takes the model together with its optimizer or not at all.
    trainer.create_optimizer()
    trainer.model, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    trainer.model_wrapped = trainer.model
    if hasattr(trainer.model, "generate"):
        register_fsdp_forward_method(trainer.model, "generate")


@contextlib.contextmanager
def divided_once(trainer: Trainer) -> Iterator[None]:
    """Within it a model that FSDP2 has divided is taken as it is, with its optimizer.

    Accelerate would find the optimizer's parameters again by the addresses of this rank's pieces,
    and all pieces that hold nothing have the same address.
    """
    accelerator: Any = trainer.accelerator
    if not isinstance(trainer.model, FSDPModule):
        yield
        return

    def as_they_are(model: Any, optimizer: Any) -> tuple[Any, Any]:
        accelerator._models.append(model)  # which transformers had it forget
        accelerator._optimizers.append(optimizer)
        return model, optimizer

    prepare, accelerator.prepare = accelerator.prepare, as_they_are
    try:
        yield
    finally:
        accelerator.prepare = prepare


def speed_up(trainer: Any, *, compiled: bool) -> Callable[[], None]:
    """Share casts, keep freed memory; compile blocks and the engine's head, if so decided."""
    model, engine = trainer.model, trainer.engine
    cast_again = share_casts(model)
    give_back = keep_freed_memory(next(model.parameters()).device.type)
    if compiled:
        compile_blocks(model)
        trainer.engine = compile_head(engine)

    def undo() -> None:
        cast_again()
        if compiled:
            uncompile_blocks(model)
        trainer.engine = engine
        give_back()

    return undo


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
        look, engine, note = told_by_the_first_rank(choose)
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
