"""Attention over a packed row by definition: every score, one mask. The oracle, for every feature.

It is slow and needs memory for all S x S scores; it is also what runs where no faster way knows
a feature (soft-capped scores, attention sinks).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from orpo.engine.layout import PairLayout
from orpo.objective.log_odds import compute_dtype

__all__ = ["dense_attention", "pair_by_pair", "segmented_attention"]


def dense_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PairLayout,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """softmax(softcap * tanh(scale * Q K^T / softcap)) V, with sinks in the denominator.

    Args:
        query: (1, H, S, D).
        key: (1, K, S, D), K a divisor of H.
        value: (1, K, S, D).
        layout: What attends to what.
        scale: Factor of the scores.
        window: Sliding window in positions, the query's own included.
        softcap: Scores are bent to stay within this bound.
        sinks: (H,), the score of a key that has no value.

    Returns:
        (1, S, H, D), in the dtype of `query`.
    """
    mask = layout.once(("mask", window), lambda: layout.mask(window))
    return _attend(query, key, value, mask, scale, softcap, sinks).transpose(1, 2)


def segmented_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PairLayout,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """The same, pair by pair: no score is computed between pairs."""

    def one(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        return _attend(query, key, value, mask, scale, softcap, sinks)

    return pair_by_pair(query, key, value, layout.pair_masks(window), one)


def pair_by_pair(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    masks: list[tuple[slice, Tensor]],
    one: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """(1, S, H, D): `one` for the queries, keys and values of each pair, and its mask."""
    parts = [one(query[:, :, own], key[:, :, own], value[:, :, own], m) for own, m in masks]
    return torch.cat(parts, dim=2).transpose(1, 2)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    dtype = compute_dtype(query)
    q, k, v = (x.to(dtype) for x in (query, key, value))
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = (q @ k.transpose(-1, -2)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is not None:
        sink = sinks.to(dtype).view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        weights = torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return (weights @ v).to(query.dtype)
