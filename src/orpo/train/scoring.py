"""Batches scored in micro-batches, one row for each pair, in the pairs' order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from orpo.engine import Engine, cut
from orpo.train.ranks import most_of_ranks

__all__ = ["score_batch"]

Batch = dict[str, Tensor]


class _Scorer(Protocol):
    """What a trainer knows about how pairs go through its model."""

    engine: Engine

    @property
    def _max_tokens(self) -> int: ...

    @property
    def _in_pieces(self) -> bool: ...


def score_batch(trainer: _Scorer, inputs: Batch, score: Callable[[Batch], Tensor]) -> Tensor:
    """What `score` finds for the pairs of a batch, (pairs, columns).

    Args:
        trainer: Its engine and limits cut the batch.
        inputs: A batch of `PairCollator`, on the device.
        score: From a micro-batch to one row for each of its pairs.
    """
    rows = inputs["row"]
    batch = {**inputs, "position": torch.arange(len(rows), device=rows.device)}
    parts = cut([batch], trainer.engine, trainer._max_tokens)
    # Where weights lie in pieces, every rank takes as many passes; what is done twice is left.
    passes = most_of_ranks(len(parts), rows.device) if trainer._in_pieces else len(parts)
    tables = [score(part) for part in [*parts, *[parts[-1]] * (passes - len(parts))]]
    order = torch.cat([part["position"] for part in parts]).argsort()
    return torch.cat(tables[: len(parts)])[order]
