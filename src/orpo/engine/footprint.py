"""What a training step takes on each device, from the shape of the model alone.

For a model of N weights, V tokens, width d and L layers on R ranks:

    weights       b_w N                     b_w: 4 in fp32, 2 in bf16, 0.52 in 4 bits; under QLoRA
                                            norms, embedding and output layer stay in fp32
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

Wrapper: TypeAlias = Literal["one", "ddp", "zero2", "zero3", "fsdp2"]
Weights: TypeAlias = Literal["full", "lora", "qlora"]

ADAPTER_RANK = 16
FOUR_BITS = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in NF4 with quantised block scales (64 weights a block, 256 scales a block)."""
_LOGITS = 1 << 30
"""Bytes of logits at a time, see `FusedHead.budget_bytes`."""


@dataclass(frozen=True)
class ModelShape:
    """A decoder with gated MLPs, of the Llama kind."""

    width: int  # hidden size d
    layers: int  # number of layers L
    mlp: int  # inner size of the MLP
    vocabulary: int  # number of tokens V
    keys: int  # width of keys (and of values): heads that have their own times their size
    tied: bool = False  # whether the output layer is the embedding
    counted: int | None = None
    """All weights, where they were counted because the model is of another kind."""

    @property
    def layer(self) -> int:
        """Weights of one layer."""
        if self.counted is not None:
            return (self.counted - self.outer - self.width) // self.layers
        attention = 2 * self.width * self.width + 2 * self.width * self.keys
        return attention + 3 * self.width * self.mlp + 2 * self.width

    @property
    def head(self) -> int:
        """Weights of the output layer."""
        return self.width * self.vocabulary

    @property
    def outer(self) -> int:
        """Weights of the embedding and of the output layer."""
        return self.head * (1 if self.tied else 2)

    @property
    def total(self) -> int:
        """All weights."""
        if self.counted is not None:
            return self.counted
        return self.layers * self.layer + self.width + self.outer

    def adapter(self, rank: int) -> int:
        """Weights of a LoRA adapter on every linear layer but the output layer."""
        d, m, k = self.width, self.mlp, self.keys
        return self.layers * rank * (2 * (d + d) + 2 * (d + k) + 3 * (d + m))


@dataclass(frozen=True)
class Counted:
    """Bytes of a model's tensors, all of them together, whoever holds them."""

    weights: int  # the weights, with those of an adapter
    gradients: int  # of the trained ones
    states: int  # the optimizer's
    cast: int  # copies that autocast keeps of the weights of matrix products
    full: bool  # whether all weights are trained; else an adapter is
    quantised: bool = False  # whether the adapter's matrices are in 4 bits

    @classmethod
    def by_shape(cls, shape: ModelShape, weights: Weights, *, autocast: bool) -> Counted:
        """From the shape alone: AdamW; all weights in fp32, or an adapter of `ADAPTER_RANK`."""
        full = weights == "full"
        trained = shape.total if full else shape.adapter(ADAPTER_RANK)
        held = {
            "full": 4.0 * shape.total,
            "lora": 2.0 * shape.total,
            "qlora": FOUR_BITS * (shape.total - shape.outer) + 4.0 * shape.outer,
        }[weights]
        cast = 2 * (shape.total - (0 if shape.tied else shape.head)) if full and autocast else 0
        adapter = 0 if full else 4 * trained
        quantised = weights == "qlora"
        return cls(int(held) + adapter, 4 * trained, 8 * trained, cast, full, quantised)


@dataclass(frozen=True)
class Footprint:
    """Bytes on one device while a step is taken."""

    weights: int  # the model's
    gradients: int  # of the trained weights
    states: int  # the optimizer's
    copies: int  # weights in the precision of the computation, gathered layers, DDP's buckets
    head: int  # logits that are held at a time, and the output layer's gradient in fp32
    activations: int  # kept for the backward pass

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, f.name) for f in fields(self))


def footprint(
    shape: ModelShape,
    *,
    weights: Weights | Counted = "full",
    wrapper: Wrapper = "one",
    ranks: int = 1,
    tokens: int = 4096,
    checkpointing: bool = True,
    autocast: bool = True,
    logits: int = _LOGITS,
) -> Footprint:
    """What one device holds at the peak of a step.

    "full" trains all weights, kept in fp32; "lora" an adapter of rank `ADAPTER_RANK` on weights in
    bf16; "qlora" the same on layers in 4 bits. The wrapper divides the model among the ranks;
    `tokens` go through it at once (`max_tokens_per_microbatch`); without autocast the computation
    is in the dtype of the weights; `logits` are their most bytes at a time.
    """
    if not isinstance(weights, Counted):
        weights = Counted.by_shape(shape, weights, autocast=autocast)
    in_pieces = wrapper in ("zero3", "fsdp2")
    pieces = ranks if in_pieces else 1
    divided = ranks if in_pieces or wrapper == "zero2" else 1
    copies = weights.cast + (weights.gradients if wrapper == "ddp" and ranks > 1 else 0)
    if in_pieces:
        copies = 2 * (2 * shape.layer + shape.outer)  # two layers, embedding and output layer
    computed = 2 if autocast or not weights.full else 4
    per_token = _per_token(shape, computed, weights, checkpointing=checkpointing)
    return Footprint(
        weights=weights.weights // pieces,
        gradients=weights.gradients // divided,
        states=weights.states // divided,
        copies=copies,
        head=logits + (4 * shape.head if weights.full else 0),
        activations=tokens * per_token,
    )


def _per_token(shape: ModelShape, size: int, counted: Counted, *, checkpointing: bool) -> int:
    """Bytes that a position keeps; `size` are those of a number in matrix products."""
    d, m, k = shape.width, shape.mlp, shape.keys
    if counted.full:
        # Norms: input and normed value in fp32, the latter rounded for the matrices behind it.
        # Attention: query, key, value, the rotated ones, the result. MLP: gate, its activation,
        # up, their product.
        layer = 4 * 4 * d + size * 2 * d + size * (3 * d + 3 * k) + size * 4 * m
    else:
        # Norms: input in fp32. Adapters keep what goes into their matrices: one copy behind each
        # norm, or one for each matrix in 4 bits, and those before the output and down matrices.
        # Attention: rotated query and key, value, result. MLP: gate, its activation, up.
        inputs = 6 if counted.quantised else 3
        layer = 4 * 2 * d + size * (inputs * d + m) + size * (2 * d + 2 * k) + size * 3 * m
    ends = 4 * 4 * d  # the last norm, hidden states at the head and their gradient
    if checkpointing:
        return 4 * d * shape.layers + layer + ends
    return layer * shape.layers + ends
