"""Attention over a packed row on an accelerator, with the kernels that are there.

To a kernel for sequences of different lengths a pair is two sequences: P and C attend to P and C,
and R attends to P and R. A causal mask aligned to the end of the keys (as flash attention has it)
is what R over P and R needs; only the keys have to be gathered, because P is read twice.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.compiler import config as compiler

from orpo.engine.attention_cpu import pair_by_pair
from orpo.engine.layout import PairLayout

_RECOMPILED = 64
"""Kinds of FlexAttention that may be compiled: with a window or not, for a gradient or not, ..."""
_BLOCK = 128
"""Queries, and keys, of a block of FlexAttention's masks."""
_SLAB = 1 << 21
"""Entries of the mask that are computed at a time; the widest of them take 8 bytes."""


class Varlen(NamedTuple):
    """A packed row as sequences of different lengths, N of them."""

    keys: Tensor  # (T,) int64, which tokens are the keys, sequence by sequence
    query_ends: Tensor  # (N + 1,) int32, offsets of the sequences among the queries
    key_ends: Tensor  # (N + 1,) int32, the same among the keys
    longest_query: int  # most queries of a sequence
    longest_key: int  # most keys of a sequence

    @classmethod
    def of(cls, layout: PairLayout) -> Varlen:
        """The sequences of a layout."""
        keys: list[Tensor] = []
        queries_of, keys_of = [0], [0]
        for span in layout.spans:
            keys.append(torch.arange(span.start, span.turn))
            queries_of.append(span.prefix + span.chosen)
            keys_of.append(span.prefix + span.chosen)
            if span.rejected:
                keys += [torch.arange(span.start, span.fork), torch.arange(span.turn, span.end)]
                queries_of.append(span.rejected)
                keys_of.append(span.prefix + span.rejected)
        device = layout.positions.device
        query_ends, key_ends = (
            torch.tensor(x).cumsum(0).int().to(device) for x in (queries_of, keys_of)
        )
        return cls(torch.cat(keys).to(device), query_ends, key_ends, max(queries_of), max(keys_of))


@functools.cache
def has_flash_attn() -> bool:
    """Whether the flash-attn package is installed."""
    return importlib.util.find_spec("flash_attn") is not None


@functools.cache
def has_varlen(device: torch.device) -> bool:
    """Whether PyTorch's own kernel for sequences of different lengths runs on a device."""
    known = importlib.util.find_spec("torch.nn.attention.varlen") is not None
    return known and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8,)


@functools.cache
def has_triton() -> bool:
    """Whether FlexAttention can be compiled."""
    return importlib.util.find_spec("triton") is not None


def _three(
    query: Tensor, key: Tensor, value: Tensor, varlen: Varlen
) -> tuple[Tensor, Tensor, Tensor]:
    """(1, H, S, D) -> (S, H, D), keys and values gathered."""
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return q, k.index_select(0, varlen.keys), v.index_select(0, varlen.keys)


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PairLayout,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """With the flash-attn package; float16 and bfloat16, D up to 256."""
    from flash_attn import flash_attn_varlen_func  # noqa: PLC0415

    varlen = layout.once("varlen", lambda: Varlen.of(layout))
    result: Tensor = flash_attn_varlen_func(
        *_three(query, key, value, varlen),
        varlen.query_ends,
        varlen.key_ends,
        varlen.longest_query,
        varlen.longest_key,
        softmax_scale=scale,
        causal=True,
        window_size=(window - 1, 0) if window else (-1, -1),
        softcap=softcap or 0.0,
    )
    return result[None]


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PairLayout,
    *,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """With PyTorch's `varlen_attn`; float16 and bfloat16."""
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415

    varlen = layout.once("varlen", lambda: Varlen.of(layout))
    q, k, v = _three(query, key, value, varlen)
    result = varlen_attn(
        q,
        k,
        v,
        varlen.query_ends,
        varlen.key_ends,
        varlen.longest_query,
        varlen.longest_key,
        scale=scale,
        window_size=(window - 1, 0) if window else (-1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(result, Tensor)
    return result[None]


def sdpa_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PairLayout,
    *,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """With `scaled_dot_product_attention`, pair by pair; every dtype and device."""
    groups = query.shape[1] // key.shape[1]

    def one(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)

    return pair_by_pair(query, key, value, layout.pair_masks(window), one)


def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PairLayout,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """With compiled FlexAttention; every dtype, only blocks that hold something are computed."""
    mask = layout.once(("flex", window), lambda: flex_mask(layout, window))

    def bend(score: Tensor, *_: Any) -> Tensor:
        assert softcap is not None
        return torch.tanh(score / softcap) * softcap

    result: Tensor = _compiled_flex(query.device.type)(
        query,
        key,
        value,
        score_mod=None if softcap is None else bend,
        block_mask=mask,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
        # Rows shorter than 128 would get the kernel for decoding, which some shapes do not have.
        kernel_options={"FORCE_USE_FLEX_ATTENTION": True},
    )
    return result.transpose(1, 2)


def flex_mask(layout: PairLayout, window: int | None) -> Any:
    """The layout as FlexAttention's block mask, made without the S x S mask."""
    from torch.nn.attention.flex_attention import BlockMask  # noqa: PLC0415

    sees, tokens = layout.sees(window), layout.tokens

    def seen(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return sees(query, key)

    some, every = _blocks(sees, tokens, layout.positions.device)
    return BlockMask.from_kv_blocks(
        *_listed(some & ~every),
        *_listed(every),
        BLOCK_SIZE=_BLOCK,
        mask_mod=seen,
        seq_lengths=(tokens, tokens),
    )


def _blocks(
    sees: Callable[[Tensor, Tensor], Tensor], tokens: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(n, n) bool, n blocks of queries and of keys: any query sees any key, each sees each."""
    count = -(-tokens // _BLOCK)
    index = torch.arange(count * _BLOCK, device=device)
    there, place = index < tokens, index.clamp(max=tokens - 1)
    some, every = [], []
    together = max(1, _SLAB // (_BLOCK * len(index)))  # blocks of queries
    for own in torch.split(index, together * _BLOCK):
        mask = sees(place[own, None], place[None]) & there[own, None] & there
        blocks = mask.view(-1, _BLOCK, count, _BLOCK)
        some.append(blocks.any(3).any(1))
        every.append(blocks.all(3).all(1))
    return torch.cat(some), torch.cat(every)


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of keys each block of queries has, and which; with batch and head, 1 each."""
    numbers = blocks.sum(-1, dtype=torch.int32)
    which = blocks.int().argsort(dim=-1, descending=True, stable=True).int()
    return numbers[None, None], which[None, None]


@functools.cache
def _compiled_flex(device: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention as flex  # noqa: PLC0415

    if device != "cuda":
        return flex
    # Above the limit it would be computed as it is written: all scores, in memory.
    compiler.recompile_limit = max(_RECOMPILED, compiler.recompile_limit)
    return torch.compile(flex, dynamic=True, fullgraph=True)
