"""Attention over a packed row without accelerator: exact softmax in tiles, and by definition.

Every pair is cut into tiles of queries; a tile attends to one slice of keys, so that hardly any
product is computed that the mask throws away. The backward pass computes the probabilities again
(one more product) rather than keeping them. Scores, softmax and the gradient of the probabilities
are float32 (float64 for float64); in half precision the other products take the probabilities and
the gradient of the scores rounded, as flash attention does.

Every score and one mask, by definition, is the oracle for every feature, and what runs where no
faster way knows one (soft-capped scores, attention sinks).

Shapes: H query heads in K groups of G that share a key head, D per head, q queries, k keys.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from orpo.engine.layout import PairLayout, PairSpan
from orpo.objective.log_odds import compute_dtype

_QUERIES = 64
"""Queries of a tile: small enough to waste little above the diagonal, and to stay in the cache."""


@dataclass(frozen=True)
class _Tile:
    """Some queries of a pair and the keys that they attend to."""

    rows: slice  # slice among the sequence's queries, G rows for each
    keys: slice  # slice among the keys of the tile's sequence (P and C, or P and R)
    mask: Tensor  # (q * G, k), zero or -inf, to be added to the scores


@dataclass(frozen=True)
class _Sequence:
    """One of the two sequences of a pair: P and C, or P and R."""

    queries: slice  # slice of the packed row; P's queries are those of the first sequence only
    keys: tuple[slice, ...]  # slices of the packed row that make up the sequence
    tiles: tuple[_Tile, ...]  # its queries, in order


def tiled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PairLayout,
    *,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """softmax(scale * Q K^T) V over a packed row; otherwise as `dense_attention`."""
    groups = query.shape[1] // key.shape[1]
    dtype = compute_dtype(query)
    sequences = layout.once(
        ("tiles", groups, window, dtype), lambda: _sequences(layout, groups, window, dtype)
    )
    result: Tensor = _Tiled.apply(query, key, value, sequences, scale)  # type: ignore[no-untyped-call]
    return result


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sequences: list[_Sequence],
        scale: float,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.sequences, ctx.scale = sequences, scale  # type: ignore[attr-defined]
        exact, (heads, tokens) = compute_dtype(query), query.shape[1:3]
        result = query.new_empty(1, tokens, heads, value.shape[-1])
        for sequence in sequences:
            keys = _rows(key, sequence.keys, exact)
            values = _rows(value, sequence.keys, value.dtype)
            queries = _grouped(query, sequence.queries, len(keys), exact)
            answers = [
                torch.bmm(
                    _weights(queries, keys, tile, scale).to(value.dtype), values[:, tile.keys]
                )
                for tile in sequence.tiles
            ]
            result[0, sequence.queries] = _ungrouped(torch.cat(answers, dim=1), heads)
        return result

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value = ctx.saved_tensors  # type: ignore[attr-defined]
        scale = ctx.scale  # type: ignore[attr-defined]
        exact, low, heads = compute_dtype(query), query.dtype, query.shape[1]
        grad = grad.transpose(1, 2)
        d_query = torch.empty_like(query.transpose(1, 2))
        d_key, d_value = (
            torch.zeros(x.shape[1:], dtype=exact, device=x.device) for x in (key, value)
        )
        for sequence in ctx.sequences:  # type: ignore[attr-defined]
            keys, values = (_rows(x, sequence.keys, exact) for x in (key, value))
            queries = _grouped(query, sequence.queries, len(keys), exact)
            above = _grouped(grad, sequence.queries, len(keys), exact)
            keys_low, queries_low, above_low = (x.to(low) for x in (keys, queries, above))
            d_keys, d_values = torch.zeros_like(keys), torch.zeros_like(values)
            d_queries = []
            for tile in sequence.tiles:
                rows, seen = tile.rows, tile.keys
                weights = _weights(queries, keys, tile, scale)
                d_values[:, seen] += torch.bmm(weights.to(low).transpose(1, 2), above_low[:, rows])
                d_weights = torch.bmm(above[:, rows], values[:, seen].transpose(1, 2))
                d_scores = torch._softmax_backward_data(d_weights, weights, -1, exact)
                d_scores = d_scores.mul_(scale).to(low)
                d_queries.append(torch.bmm(d_scores, keys_low[:, seen]))
                d_keys[:, seen] += torch.bmm(d_scores.transpose(1, 2), queries_low[:, rows])
            d_query[0, sequence.queries] = _ungrouped(torch.cat(d_queries, dim=1), heads)
            _add_rows(d_key, d_keys, sequence.keys)
            _add_rows(d_value, d_values, sequence.keys)
        return d_query.transpose(1, 2), d_key[None].to(key), d_value[None].to(value), None, None


def _weights(queries: Tensor, keys: Tensor, tile: _Tile, scale: float) -> Tensor:
    """(K, q * G, k), the softmax of a tile's masked scores."""
    seen = keys[:, tile.keys].transpose(1, 2)
    return torch.baddbmm(tile.mask, queries[:, tile.rows], seen, alpha=scale).softmax(-1)


def _grouped(x: Tensor, rows: slice, groups: int, dtype: torch.dtype) -> Tensor:
    """(1, H, S, D) -> (K, q * G, D): of each query, the heads that share a key head together."""
    part = x[0, :, rows]
    part = part.reshape(groups, -1, *part.shape[1:]).transpose(1, 2).to(dtype)
    return part.reshape(groups, -1, x.shape[-1])


def _ungrouped(x: Tensor, heads: int) -> Tensor:
    """(K, q * G, D) -> (q, H, D)."""
    groups, _, width = x.shape
    return x.view(groups, -1, heads // groups, width).transpose(0, 1).flatten(1, 2)


def _rows(x: Tensor, parts: tuple[slice, ...], dtype: torch.dtype) -> Tensor:
    """(1, K, S, D) -> (K, k, D): the keys or values of one sequence."""
    return torch.cat([x[0, :, part].to(dtype) for part in parts], dim=1)


def _add_rows(total: Tensor, rows: Tensor, parts: tuple[slice, ...]) -> None:
    first = 0
    for part in parts:
        last = first + part.stop - part.start
        total[:, part] += rows[:, first:last]
        first = last


def _sequences(
    layout: PairLayout, groups: int, window: int | None, dtype: torch.dtype
) -> list[_Sequence]:
    device = layout.positions.device
    found = []
    for span in layout.spans:
        for keys, first, start in _two_sequences(span):
            length = sum(part.stop - part.start for part in keys)
            tiles = []
            for begin in range(first, length, _QUERIES):
                end = min(begin + _QUERIES, length)
                lowest = max(0, begin + 1 - window) if window else 0
                mask = _causal(begin, end, lowest, window, dtype).to(device)
                rows = slice((begin - first) * groups, (end - first) * groups)
                mask = mask.repeat_interleave(groups, dim=0)
                tiles.append(_Tile(rows, slice(lowest, end), mask))
            if tiles:
                queries = slice(start, start + length - first)
                found.append(_Sequence(queries, keys, tuple(tiles)))
    return found


def _two_sequences(span: PairSpan) -> list[tuple[tuple[slice, ...], int, int]]:
    """Of P and C, and of P and R: the keys, the first query in the sequence and in the row."""
    whole = (slice(span.start, span.turn),)
    forked = (slice(span.start, span.fork), slice(span.turn, span.end))
    return [(whole, 0, span.start), (forked, span.prefix, span.turn)]


def _causal(begin: int, end: int, lowest: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """(q, k) additive mask of queries begin .. end - 1 over keys lowest .. end - 1."""
    distance = torch.arange(begin, end)[:, None] - torch.arange(lowest, end)[None, :]
    hidden = distance < 0
    if window:
        hidden |= distance >= window
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))


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

    Queries are (1, H, S, D), keys and values (1, K, S, D), K a divisor of H; the result is
    (1, S, H, D), in the dtype of `query`. A window of positions includes the query's own; a sink,
    (H,), is the score of a key that has no value.
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
