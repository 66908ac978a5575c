"""What multiplies in a model's layers: a matrix, or a plain LoRA adapter on one."""

from __future__ import annotations

from torch import nn

__all__ = ["is_linear", "is_plain_lora"]


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
