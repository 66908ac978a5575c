"""The pairs of an optimizer step, dealt out to micro-batches by tokens.

The loss does not depend on how: `orpo.train.step_loss` normalises by the whole step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from orpo.data import merge_batches, select_pairs
from orpo.engine.layout import pair_lengths
from orpo.engine.types import Engine

__all__ = ["cut", "pack_bins", "positions_of"]

Batch = dict[str, Tensor]


def cut(batches: Sequence[Batch], engine: Engine, max_tokens: int | None) -> list[Batch]:
    """Micro-batches of at most `max_tokens` positions each (at least one pair), evenly filled.

    Args:
        batches: Batches of `orpo.data.PairCollator`; their pairs are dealt out anew.
        engine: Says how many positions a pair takes.
        max_tokens: None for one micro-batch of everything.

    Returns:
        As few micro-batches as the limit allows, every pair in exactly one.
    """
    whole = merge_batches(batches)
    sizes = positions_of(whole, engine)
    together = len(sizes) * max(sizes) if engine.pads else sum(sizes)
    if max_tokens is None or together <= max_tokens:
        return [whole]
    bins = pack_bins(sizes, max_tokens, engine)
    return [select_pairs(whole, pairs) for pairs in bins]


def positions_of(batch: Batch, engine: Engine) -> list[int]:
    """Positions that each pair takes up in the model."""
    return [engine.positions(*lengths) for lengths in pair_lengths(batch).tolist()]


def pack_bins(sizes: Sequence[int], limit: int, engine: Engine) -> list[list[int]]:
    """Indices of pairs by bin; no bin is over the limit unless it holds a single pair.

    The longest first, each into the emptiest bin, with as few bins as it then takes; an engine that
    pads gets neighbours in length together instead.
    """
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))
    if engine.pads:
        return _neighbours(order, sizes, limit)
    fewest = min(math.ceil(sum(sizes) / limit), len(sizes))
    for count in range(fewest, len(sizes) + 1):
        bins: list[list[int]] = [[] for _ in range(count)]
        filled = [0] * count
        for i in order:
            emptiest = filled.index(min(filled))
            bins[emptiest].append(i)
            filled[emptiest] += sizes[i]
        if all(
            total <= limit or len(pairs) == 1 for pairs, total in zip(bins, filled, strict=True)
        ):
            return [sorted(pairs) for pairs in bins if pairs]
    raise AssertionError("one bin per pair is always allowed")


def _neighbours(order: list[int], sizes: Sequence[int], limit: int) -> list[list[int]]:
    bins: list[list[int]] = []
    for i in order:
        # Sorted by size, so the first pair of a bin is its largest.
        if bins and (len(bins[-1]) + 1) * sizes[bins[-1][0]] <= limit:
            bins[-1].append(i)
        else:
            bins.append([i])
    return bins
