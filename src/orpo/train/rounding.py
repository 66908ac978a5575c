"""Weights in 16 bits that are all trained: how many of them a step can move at all.

An update of Adam is about as large as the learning rate. Where that is less than half the distance
to the next number of the weight's type, the weight stays what it was, step after step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["movable_share", "rounding_notes"]

_HALVES = (torch.bfloat16, torch.float16)
_SAMPLES = 4096  # of each weight


def rounding_notes(model: nn.Module, learning_rate: float) -> list[str]:
    """A line for the user; none where the trained matrices are kept in 32 bits."""
    halves = [
        parameter.detach()
        for parameter in model.parameters()
        if parameter.requires_grad and parameter.dtype in _HALVES and parameter.dim() > 1
    ]
    if not halves:
        return []
    there = [weight for weight in halves if not weight.is_meta and weight.numel()]
    share = f"about {movable_share(there, learning_rate):.1%}" if there else "a part"
    name = str(halves[0].dtype).removeprefix("torch.")
    return [
        f"the weights that are trained are {name}: at a learning rate of {learning_rate:g} {share} "
        "of them can be moved by a step, the updates of the others are rounded away; "
        "--model_dtype float32, with --bf16 true, keeps them"
    ]


def movable_share(weights: list[Tensor], update: float) -> float:
    """The share of entries that change when an update of this size is added or taken away."""
    moved = total = 0.0
    for weight in weights:
        flat = weight.reshape(-1)
        drawn = flat[:: max(1, flat.numel() // _SAMPLES)]
        changed = (drawn.float() + update).to(weight.dtype) != drawn
        changed |= (drawn.float() - update).to(weight.dtype) != drawn
        moved += float(changed.float().mean()) * weight.numel()
        total += weight.numel()
    return moved / total
