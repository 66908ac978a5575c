"""What a training step takes on each device, from the shape of the model alone.

For a model of N weights, V tokens, width d and L layers on R ranks:

    weights       b_w N                     b_w: 4 in fp32, 2 in bf16, about 0.53 in 4 bits
    gradients     4 T                       T weights are trained: N, or those of the adapter
    states        8 T                       AdamW's two moments in fp32
    copies        2 N                       of the weights for autocast, where they are in fp32
    buckets       4 T                       DDP's own copy of the gradients, with several ranks
    head          the logits of a group of pairs and, if it is trained, its gradient in fp32
    activations   a per token               what the backward pass needs, of all layers, or with
                                            checkpointing of one layer, and every layer's input

FSDP2 and ZeRO-3 divide weights, gradients and states by R; what they gather for a layer at a time,
twice because they fetch ahead, is whole. ZeRO-2 divides gradients and states. DDP divides nothing.
Autocast copies under FSDP2 and ZeRO-3 are those of the gathered layers only.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

__all__ = ["ADAPTER_RANK", "Footprint", "ModelShape", "Weights", "Wrapper", "footprint"]

Wrapper: TypeAlias = Literal["one", "ddp", "zero2", "zero3", "fsdp2"]
Weights: TypeAlias = Literal["full", "lora", "qlora"]

ADAPTER_RANK = 16
_FOUR_BITS = 0.53
"""Bytes of a weight in NF4 with quantised block scales (64 weights a block)."""
_LOGITS = 1 << 30
"""Bytes of logits at a time, see `FusedHead.budget_bytes`."""


@dataclass(frozen=True)
class ModelShape:
    """A decoder with gated MLPs, of the Llama kind.

    Attributes:
        width: Hidden size d.
        layers: Number of layers L.
        mlp: Inner size of the MLP.
        vocabulary: Number of tokens V.
        keys: Width of keys (and of values): heads that have their own times their size.
        tied: Whether the output layer is the embedding.
    """

    width: int
    layers: int
    mlp: int
    vocabulary: int
    keys: int
    tied: bool = False

    @property
    def layer(self) -> int:
        """Weights of one layer."""
        attention = 2 * self.width * self.width + 2 * self.width * self.keys
        return attention + 3 * self.width * self.mlp + 2 * self.width

    @property
    def head(self) -> int:
        """Weights of the output layer."""
        return self.width * self.vocabulary

    @property
    def total(self) -> int:
        """All weights."""
        return self.layers * self.layer + self.width + self.head * (1 if self.tied else 2)

    def adapter(self, rank: int) -> int:
        """Weights of a LoRA adapter on every linear layer but the output layer."""
        d, m, k = self.width, self.mlp, self.keys
        return self.layers * rank * (2 * (d + d) + 2 * (d + k) + 3 * (d + m))


@dataclass(frozen=True)
class Footprint:
    """Bytes on one device while a step is taken.

    Attributes:
        weights: The model's.
        gradients: Of the trained weights.
        states: The optimizer's.
        copies: Weights in the precision of the computation, gathered layers, DDP's buckets.
        head: Logits that are held at a time, and the output layer's gradient in fp32.
        activations: Kept for the backward pass.
    """

    weights: int
    gradients: int
    states: int
    copies: int
    head: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, f.name) for f in fields(self))


def footprint(
    shape: ModelShape,
    *,
    weights: Weights = "full",
    wrapper: Wrapper = "one",
    ranks: int = 1,
    tokens: int = 4096,
    checkpointing: bool = True,
    autocast: bool = True,
    logits: int = _LOGITS,
) -> Footprint:
    """What one device holds at the peak of a step.

    Args:
        shape: The model.
        weights: "full" trains all weights, kept in fp32; "lora" an adapter of rank `ADAPTER_RANK`
            on weights in bf16; "qlora" the same on weights in 4 bits.
        wrapper: What divides the model among the ranks, if anything.
        ranks: Devices.
        tokens: Positions that go through the model at once (`max_tokens_per_microbatch`).
        checkpointing: Gradient checkpointing.
        autocast: Computation in bf16; else in the dtype of the weights.
        logits: Most bytes of logits at a time.
    """
    full, in_pieces = weights == "full", wrapper in ("zero3", "fsdp2")
    trained = shape.total if full else shape.adapter(ADAPTER_RANK)
    size = {"full": 4.0, "lora": 2.0, "qlora": _FOUR_BITS}[weights]
    held = size * shape.total + (0 if full else 4 * trained)
    pieces = ranks if in_pieces else 1
    divided = ranks if in_pieces or wrapper == "zero2" else 1
    computed = 2 if autocast or not full else 4
    return Footprint(
        weights=int(held / pieces),
        gradients=4 * trained // divided,
        states=8 * trained // divided,
        copies=_copies(shape, trained, wrapper, ranks, full=full, autocast=autocast),
        head=logits + (4 * shape.head if full else 0),
        activations=tokens * _per_token(shape, computed, checkpointing=checkpointing, full=full),
    )


def _copies(
    shape: ModelShape, trained: int, wrapper: Wrapper, ranks: int, *, full: bool, autocast: bool
) -> int:
    if wrapper in ("zero3", "fsdp2"):
        outer = shape.head * (1 if shape.tied else 2)
        return 2 * (2 * shape.layer + outer)  # two layers, the embedding and the output layer
    cast = 2 * (shape.total - (0 if shape.tied else shape.head)) if full and autocast else 0
    return cast + (4 * trained if wrapper == "ddp" and ranks > 1 else 0)


def _per_token(shape: ModelShape, size: int, *, checkpointing: bool, full: bool) -> int:
    """Bytes that a position keeps; `size` are those of a number in matrix products."""
    d, m, k = shape.width, shape.mlp, shape.keys
    if full:
        # Norms: input and normed value in fp32, the latter rounded for the matrices behind it.
        # Attention: query, key, value, the rotated ones, the result. MLP: gate, its activation,
        # up, their product.
        layer = 4 * 4 * d + size * 2 * d + size * (3 * d + 3 * k) + size * 4 * m
    else:
        # Norms: input in fp32. An adapter keeps its own copy of what goes into each matrix.
        # Attention: rotated query and key, value, result. MLP: gate, its activation, up.
        layer = 4 * 2 * d + size * (6 * d + m) + size * (2 * d + 2 * k) + size * 3 * m
    ends = 4 * 4 * d  # the last norm, hidden states at the head and their gradient
    if checkpointing:
        return 4 * d * shape.layers + layer + ends
    return layer * shape.layers + ends
