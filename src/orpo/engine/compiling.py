"""Making steps cheaper without changing their numbers: shared casts, compiled blocks.

Under autocast a norm gives float32, and each linear layer that reads it rounds and keeps a copy of
its own. Rounded once, where the norm ends, the numbers that are multiplied are the same, and three
copies per layer are not made. A LoRA layer widens its input before autocast rounds it again; that
changes no number and is left out. Whole models are not compiled: packed rows change their shape
with every micro-batch, and nearly all that there is to gain lies in norms and gated MLPs.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from orpo.engine.padded import ApartEngine, PaddedEngine
from orpo.engine.shared import SharedEngine
from orpo.engine.types import Engine


def is_linear(layer: object) -> bool:
    """A matrix and perhaps a bias, with or without a plain LoRA adapter."""
    if is_plain_lora(layer):
        layer = getattr(layer, "base_layer", None)
    return type(layer) is nn.Linear


def is_plain_lora(layer: object) -> bool:
    """A LoRA layer of peft with nothing between its input and its first product.

    That is: no dropout, no DoRA or other variant.
    """
    dropouts = getattr(layer, "lora_dropout", None)
    return (
        hasattr(layer, "cast_input_dtype_enabled")
        and isinstance(dropouts, nn.ModuleDict)
        and all(type(dropout) is nn.Identity for dropout in dropouts.values())
        and not getattr(layer, "lora_variant", None)
    )


_READ_BY_LINEAR = ("input_layernorm", "post_attention_layernorm")


def share_casts(model: nn.Module) -> Callable[[], None]:
    """Hooks on LoRA layers, and on norms that only linear layers read; gives what removes them.

    Nothing happens outside of autocast.
    """
    norms = [
        getattr(layer, name)
        for layer in model.modules()
        if _is_pre_norm(layer)
        for name in _READ_BY_LINEAR
    ]
    adapters: list[Any] = [layer for layer in model.modules() if is_plain_lora(layer)]
    hooks = [norm.register_forward_hook(_round) for norm in norms]
    hooks += [layer.register_forward_pre_hook(_widen_or_not) for layer in adapters]

    def undo() -> None:
        for hook in hooks:
            hook.remove()
        for layer in adapters:
            layer.cast_input_dtype_enabled = True

    return undo


def _is_pre_norm(layer: nn.Module) -> bool:
    """A decoder layer of the Llama kind: both norms stand before, none after (as in Gemma)."""
    names = {name for name, _ in layer.named_children() if name.endswith("norm")}
    parts = getattr(layer, "mlp", nn.Identity()).children()
    dense = all(is_linear(x) for x in parts if list(x.parameters()) or list(x.children()))
    return names == set(_READ_BY_LINEAR) and dense


def _widen_or_not(layer: Any, inputs: tuple[Any, ...]) -> None:
    layer.cast_input_dtype_enabled = not torch.is_autocast_enabled(inputs[0].device.type)


def _round(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    kind = output.device.type
    if output.dtype == torch.float32 and torch.is_autocast_enabled(kind):
        return output.to(torch.get_autocast_dtype(kind))
    return output


_PAYS = 1e14
"""Floating point operations of a run above which compiling (some ten seconds) is repaid."""


def pays(operations: float) -> bool:
    """Whether a run of so many floating point operations is worth compiling for."""
    return operations >= _PAYS


@functools.cache
def can_compile(device: str) -> bool:
    """Whether the compiler works here, tried out on a trifle."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x = torch.ones(8, device=device)
            return bool((torch.compile(_trifle, dynamic=True)(x) == 2).all())
    except Exception:
        return False


def _trifle(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def compile_blocks(model: nn.Module) -> int:
    """Compile the norms and gated MLPs of a model in place; how many."""
    blocks = list(_blocks(model))
    for block in blocks:
        block.compile(dynamic=True)
    return len(blocks)


def compile_head(engine: Engine) -> Engine:
    """The same engine, what its head computes element by element compiled."""
    if isinstance(engine, ApartEngine):
        return replace(engine, inner=compile_head(engine.inner))
    if engine.head is None or not isinstance(engine, SharedEngine | PaddedEngine):
        return engine
    return replace(engine, head=replace(engine.head, compiled=True))


def uncompile_blocks(model: nn.Module) -> None:
    """Undo `compile_blocks`."""
    for block in _blocks(model):
        block._compiled_call_impl = None


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        linear = [getattr(module, f"{name}_proj", None) for name in ("gate", "up", "down")]
        if type(module).__name__.endswith("RMSNorm") or all(is_linear(one) for one in linear):
            yield module
