"""One cast instead of five under automatic mixed precision.

A norm gives float32, and each linear layer that reads it (query, key, value; gate, up) rounds and
keeps a copy of its own. Rounded once, where the norm ends, the numbers that are multiplied are the
same; three copies per layer are not made, and not kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

__all__ = ["share_casts"]

_READ_BY_LINEAR = ("input_layernorm", "post_attention_layernorm")


def share_casts(model: nn.Module) -> list[RemovableHandle]:
    """Hooks on the norms that only linear layers read; nothing happens outside of autocast.

    Returns:
        Handles that remove the hooks.
    """
    found = []
    for layer in model.modules():
        if _is_pre_norm(layer):
            norms = [getattr(layer, name) for name in _READ_BY_LINEAR]
            found += [norm.register_forward_hook(_round) for norm in norms]
    return found


def _is_pre_norm(layer: nn.Module) -> bool:
    """A decoder layer of the Llama kind: both norms stand before, none after (as in Gemma)."""
    names = {name for name, _ in layer.named_children() if name.endswith("norm")}
    dense = all(
        type(x) is nn.Linear
        for x in getattr(layer, "mlp", nn.Identity()).children()
        if not _is_activation(x)
    )
    return names == set(_READ_BY_LINEAR) and dense


def _is_activation(module: nn.Module) -> bool:
    return not list(module.parameters()) and not list(module.children())


def _round(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    kind = output.device.type
    if output.dtype == torch.float32 and torch.is_autocast_enabled(kind):
        return output.to(torch.get_autocast_dtype(kind))
    return output
