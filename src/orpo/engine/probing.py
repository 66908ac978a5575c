"""What a model is asked before an engine is chosen: sizes, positions, and how to try it out.

Some rotary positions change with the longest sequence of a forward pass: longrope has one set of
frequencies up to `original_max_position_embeddings` and another beyond; dynamic NTK scaling has its
own for every length beyond, and keeps the longest that it has seen. What a sequence gets is its own
only beside sequences on the same side of the border, and after those seen before are forgotten.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from transformers import PretrainedConfig

from orpo.engine.attention import transformer

_TRIED = 1024
"""Most tokens of a text that is only tried out to see whether it can be read."""


def text_config(model: nn.Module) -> Any:
    """The configuration of the part of a model that reads; None if there is none."""
    config = getattr(extract_model_from_parallel(model), "config", None)
    return config.get_text_config() if isinstance(config, PretrainedConfig) else config


def positions_of_text(model: nn.Module) -> int | None:
    """The longest text that a model was made for, in tokens; None if it does not say."""
    config = text_config(model)
    said = (getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len"))
    limit = next((n for n in said if isinstance(n, int) and n > 0), None)
    return min(_tables(model), default=None) if limit is None else limit


def has_last_position(model: nn.Module) -> bool:
    """Whether a model cannot read on beyond the positions that it was made for.

    It looks each of them up in a table, or else fails when it is tried with one token more, which
    only a processor gets over.
    """
    limit = positions_of_text(model)
    if limit is None:
        return False
    if any(size >= limit for size in _tables(model)):
        return True
    if limit > _TRIED or any(p.device.type != "cpu" for p in model.parameters()):
        return False
    ids = torch.tensor([random_ids(model, limit + 1, torch.Generator().manual_seed(0))])
    try:
        with on_trial(model), torch.no_grad():
            model(input_ids=ids, use_cache=False)
    except (LookupError, RuntimeError, ValueError):
        return True
    return False


def _tables(model: nn.Module) -> list[int]:
    """Sizes of the tables of positions in the part that reads."""
    bare = transformer(model)
    reader = model if bare is None else bare.get_decoder()
    sizes = []
    for name, module in reader.named_modules():
        own = name.rsplit(".", 1)[-1]
        if isinstance(module, nn.Embedding) and ("pos" in own or own == "wpe"):
            sizes.append(module.num_embeddings)
        held = {**vars(module), **module._buffers}
        sizes += [
            len(tensor)
            for key, tensor in held.items()
            if "pos" in key and isinstance(tensor, Tensor) and tensor.is_floating_point()
        ]
    return sizes


def vocabulary_of(model: nn.Module) -> int:
    """Number of token ids that a model has an embedding for."""
    find = getattr(extract_model_from_parallel(model), "get_input_embeddings", None)
    table = None if find is None else find()
    said = getattr(table, "num_embeddings", None) or getattr(text_config(model), "vocab_size", None)
    return int(said or 2)


def random_ids(model: nn.Module, count: int, generator: torch.Generator) -> list[int]:
    """Random tokens, none of which stands for an image, a sound or the like."""
    config = getattr(extract_model_from_parallel(model), "config", None)
    stand_ins = set()
    if text_config(model) is not config:
        named = vars(config).items()
        stand_ins = {
            v for k, v in named if k.endswith(("token_id", "token_index")) and isinstance(v, int)
        }
    ids = torch.randint(0, vocabulary_of(model), (count,), generator=generator).tolist()
    while stand_ins.intersection(ids):
        others = torch.randint(0, vocabulary_of(model), (count,), generator=generator).tolist()
        ids = [b if a in stand_ins else a for a, b in zip(ids, others, strict=True)]
    return ids


@contextlib.contextmanager
def on_trial(model: nn.Module, *, training: bool = False) -> Iterator[None]:
    """All of a model in one mode; modes, buffers and random numbers are as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    model.train(training)
    try:
        with torch.random.fork_rng(sorted(devices, key=str)), _same_buffers(model):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def _same_buffers(model: nn.Module) -> Iterator[None]:
    """What a model counts while it computes, such as running means, is as before afterwards."""
    kept = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for module, name, buffer, before in kept:
            module._buffers[name] = buffer
            with torch.no_grad():
                buffer.copy_(before)


@contextlib.contextmanager
def without_checkpointing(model: nn.Module) -> Iterator[bool]:
    """Gradient checkpointing off within; whether it was on."""
    switched = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    for module in switched:
        module.gradient_checkpointing = False  # type: ignore[assignment]
    try:
        yield bool(switched)
    finally:
        for module in switched:
            module.gradient_checkpointing = True  # type: ignore[assignment]


@dataclass(frozen=True, order=True)
class Border:
    """A length beyond which a model's rotary positions are others."""

    tokens: int  # the longest sequence on the near side
    graded: bool = False  # whether every length beyond has positions of its own

    def side(self, length: int) -> int:
        """What sequences have in common that may go through the model together."""
        return max(length, self.tokens) if self.graded else int(length > self.tokens)


def borders_of(model: nn.Module) -> tuple[Border, ...]:
    """The borders of a model, the nearest first; none for positions that do not change."""
    found = set()
    for module, layers, kind in _embeddings(model):
        if "dynamic" in kind:
            found.add(Border(int(module.original_max_seq_len), graded=True))
        elif kind == "longrope":
            settings = module.config.rope_parameters
            own = settings if layers is None else settings[layers]
            found.add(Border(int(own["original_max_position_embeddings"])))
    return tuple(sorted(found))


def forget_lengths(model: nn.Module) -> None:
    """Have dynamic rotary positions begin anew, as if no sequence had gone through the model."""
    for module, layers, kind in _embeddings(model):
        if "dynamic" not in kind:
            continue
        prefix = "" if layers is None else f"{layers}_"
        now = getattr(module, f"{prefix}inv_freq")
        original = getattr(module, f"{prefix}original_inv_freq").to(now.device)
        module.register_buffer(f"{prefix}inv_freq", original, persistent=False)
        setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


def _embeddings(model: nn.Module) -> Iterator[tuple[Any, str | None, str]]:
    """Rotary embeddings with a kind of layers that they have positions for, and how those scale."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if isinstance(kinds, str):
            yield module, None, kinds
        elif isinstance(kinds, dict):
            yield from ((module, layers, str(kind)) for layers, kind in kinds.items())
