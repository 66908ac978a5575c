"""What an objective adds to prepared pairs, or takes out of them, on their way into a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["WITH_REFERENCE", "ChosenOnly", "ReferenceCollator", "ReferencedPairs"]

WITH_REFERENCE = ("reference_chosen", "reference_rejected")
"""Columns that hold the reference's summed log-probabilities of both answers."""

Batch = dict[str, Tensor]


class ReferencedPairs(torch.utils.data.Dataset[dict[str, Any]]):
    """Prepared pairs, each with `WITH_REFERENCE`.

    Args:
        pairs: The data set.
        sums: (pairs, 2): log-probabilities of its chosen and rejected answers, summed.
    """

    def __init__(self, pairs: Any, sums: Tensor) -> None:
        self.pairs, self.sums = pairs, sums

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        columns = self.pairs[list(indices)]
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        sums = self.sums[torch.tensor(indices)].tolist()
        return [
            {**row, **dict(zip(WITH_REFERENCE, both, strict=True))}
            for row, both in zip(rows, sums, strict=True)
        ]


@dataclass(frozen=True)
class ReferenceCollator:
    """Puts `WITH_REFERENCE` into the batches of another collator, where the rows have it.

    Attributes:
        collate: Makes the rest of the batch.
        device: Where the batch will be used; what it can hold decides on the dtype.
    """

    collate: Callable[[list[Any]], Batch]
    device: torch.device

    def __call__(self, features: list[Any]) -> Batch:
        """A batch with `reference_chosen` and `reference_rejected`, (B,)."""
        batch = self.collate(features)
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        for name in WITH_REFERENCE:
            if name in features[0]:
                batch[name] = torch.tensor([row[name] for row in features], dtype=dtype)
        return batch


@dataclass(frozen=True)
class ChosenOnly:
    """Takes the rejected answers out of the rows for another collator: SFT computes none.

    Attributes:
        collate: Makes the batch.
    """

    collate: Callable[[list[Any]], Batch]

    def __call__(self, features: list[Any]) -> Batch:
        """A batch of rows without rejected answer."""
        return self.collate([{**row, "rejected_ids": []} for row in features])
