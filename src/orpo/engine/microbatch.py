"""The pairs of an optimizer step, dealt out to micro-batches by tokens.

The loss does not depend on how: `orpo.train.step_loss` normalises by the whole step.
"""

import heapq
import math
from collections.abc import Sequence

from torch import Tensor

from orpo.data.pack import merge_batches, select_pairs
from orpo.engine.layout import pair_lengths
from orpo.engine.types import Engine

Batch = dict[str, Tensor]


def cut(batches: Sequence[Batch], engine: Engine, max_tokens: int | None) -> list[Batch]:
    """Micro-batches of at most `max_tokens` positions each (at least one pair), evenly filled.

    The pairs of all batches are dealt out anew, each into exactly one of as few micro-batches as
    the limit allows; one of everything for None. The engine says how many positions a pair takes.
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
    """Indices of pairs by bin, as few as it takes; over the limit are only bins of a single pair.

    They are evenly filled; an engine that pads gets neighbours in length together instead.
    """
    if engine.pads:
        bins: list[list[int]] = []
        for i in even_bins(sizes, 1, neighbours=True)[0]:
            # Sorted by size, so the first pair of a bin is its largest.
            if bins and (len(bins[-1]) + 1) * sizes[bins[-1][0]] <= limit:
                bins[-1].append(i)
            else:
                bins.append([i])
        return bins
    fewest = min(max(1, math.ceil(sum(sizes) / limit)), len(sizes))
    for count in range(fewest, len(sizes)):
        bins = even_bins(sizes, count)
        if not any(len(b) > 1 and sum(sizes[i] for i in b) > limit for b in bins):
            return bins
    return [[i] for i in range(len(sizes))]


def even_bins(sizes: Sequence[int], count: int, *, neighbours: bool = False) -> list[list[int]]:
    """Indices of pairs in `count` bins, none of them empty if there are enough pairs.

    With `neighbours`, pairs of similar length together rather than bins evenly filled.
    """
    order = sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))  # the longest first
    if neighbours:
        ends = [len(order) * (i + 1) // count for i in range(count)]
        return [order[first:last] for first, last in zip([0, *ends], ends, strict=False)]
    bins: list[list[int]] = [[] for _ in range(count)]
    emptiest = [(0, i) for i in range(count)]
    for pair in order:
        filled, i = heapq.heappop(emptiest)
        bins[i].append(pair)
        heapq.heappush(emptiest, (filled + sizes[pair], i))
    return [sorted(pairs) for pairs in bins]
