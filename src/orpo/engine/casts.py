"""One cast instead of five under automatic mixed precision.

A norm gives float32, and each linear layer that reads it (query, key, value; gate, up) rounds and
keeps a copy of its own. Rounded once, where the norm ends, the numbers that are multiplied are the
same; three copies per layer are not made, and not kept for the backward pass.

A LoRA layer widens its input to the dtype of its weights before autocast rounds it again. That
changes no number, so that it is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from orpo.engine.linear import is_linear, is_plain_lora

__all__ = ["share_casts"]

_READ_BY_LINEAR = ("input_layernorm", "post_attention_layernorm")


def share_casts(model: nn.Module) -> Callable[[], None]:
    """Hooks on LoRA layers, and on norms that only linear layers read.

    Nothing happens outside of autocast.

    Returns:
        A function that leaves the model as it was.
    """
    norms = [
        getattr(layer, name)
        for layer in model.modules()
        if _is_pre_norm(layer)
        for name in _READ_BY_LINEAR
    ]
    adapters: list[Any] = [layer for layer in model.modules() if is_plain_lora(layer)]
    hooks = [norm.register_forward_hook(_round) for norm in norms]
    hooks += [layer.register_forward_pre_hook(_leave_as_it_is) for layer in adapters]

    def undo() -> None:
        for hook in hooks:
            hook.remove()
        for layer in adapters:
            layer.cast_input_dtype_enabled = True

    return undo


def _is_pre_norm(layer: nn.Module) -> bool:
    """A decoder layer of the Llama kind: both norms stand before, none after (as in Gemma)."""
    names = {name for name, _ in layer.named_children() if name.endswith("norm")}
    dense = all(
        is_linear(x)
        for x in getattr(layer, "mlp", nn.Identity()).children()
        if not _is_activation(x)
    )
    return names == set(_READ_BY_LINEAR) and dense


def _is_activation(module: nn.Module) -> bool:
    return not list(module.parameters()) and not list(module.children())


def _leave_as_it_is(layer: Any, inputs: tuple[Any, ...]) -> None:
    layer.cast_input_dtype_enabled = not torch.is_autocast_enabled(inputs[0].device.type)


def _round(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    kind = output.device.type
    if output.dtype == torch.float32 and torch.is_autocast_enabled(kind):
        return output.to(torch.get_autocast_dtype(kind))
    return output
