"""Held-out pairs with the log-probabilities that a model gives to their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from orpo.evaluate.preference.groups import RowFacts, grouped
from orpo.objective import log_odds

__all__ = ["ScoredPairs", "token_counts"]

Floats: TypeAlias = NDArray[np.float64]
Lengths: TypeAlias = Mapping[int, tuple[int, int]]
"""Row -> tokens of its chosen and of its rejected answer."""


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs with both answers, each scored by one model; all sequences have shape (pairs,).

    Attributes:
        rows: Index of each pair's row in the data set.
        chosen: Length-averaged log-probability of the chosen answer, finite.
        rejected: The same of the rejected answer.
        prompts: Stands for the prompt of each pair: equal prompts are one cluster.
        groups: Kind of group -> the group of each pair, see `orpo.evaluate.preference.groups`.
        without_rejected: Rows that were left out because there is nothing to compare.
        not_finite: Rows that were left out because a log-probability is NaN or infinite.
    """

    rows: NDArray[np.int64]
    chosen: Floats
    rejected: Floats
    prompts: Sequence[str]
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    without_rejected: int = 0
    not_finite: int = 0

    @classmethod
    def of(
        cls, rows: Any, answers: tuple[Any, Any], facts: Mapping[int, RowFacts], lengths: Lengths
    ) -> ScoredPairs:
        """What `ORPOTrainer` predicts, in the order of the rows.

        Args:
            rows: `label_ids` of a prediction: index of each pair's row, shape (pairs,).
            answers: `predictions`: log-probabilities of the chosen and of the rejected answers;
                NaN where there is no rejected answer.
            facts: What is known of each row; a row that is not in it is a prompt of its own.
            lengths: Row -> tokens of both answers.
        """
        order = np.argsort(np.asarray(rows), kind="stable")
        numbers = np.asarray(rows, dtype=np.int64)[order]
        chosen, rejected = (np.asarray(one, dtype=np.float64)[order] for one in answers)
        both = np.array([lengths.get(int(n), (1, 1))[1] > 0 for n in numbers], dtype=bool)
        finite = np.isfinite(chosen) & np.isfinite(rejected)
        kept = both & finite
        numbers = numbers[kept]
        known = [facts.get(int(n), RowFacts(f"row {n}")) for n in numbers]
        sizes = [lengths.get(int(n), (0, 0)) for n in numbers]
        return cls(
            numbers,
            chosen[kept],
            rejected[kept],
            [fact.prompt for fact in known],
            grouped(known, sizes),
            int((~both).sum()),
            int((both & ~finite).sum()),
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def log_odds(self) -> Floats:
        """The log odds ratio z of each pair."""
        first, second = (log_odds(torch.from_numpy(one)) for one in (self.chosen, self.rejected))
        ratio: Floats = (first - second).numpy()
        return ratio

    @property
    def preferred(self) -> Floats:
        """1 where the chosen answer is more probable per token, else 0."""
        return (self.chosen > self.rejected).astype(np.float64)

    @property
    def account(self) -> dict[str, int]:
        """Pairs that were scored, and rows that could not be compared."""
        return {
            "pairs": len(self),
            "prompts": len(set(self.prompts)),
            "without_rejected": self.without_rejected,
            "not_finite": self.not_finite,
        }

    def take(self, places: Any) -> ScoredPairs:
        """Some of the pairs.

        Args:
            places: Their places, or a mask of shape (pairs,).
        """
        chosen = np.arange(len(self))[places]
        return ScoredPairs(
            self.rows[chosen],
            self.chosen[chosen],
            self.rejected[chosen],
            [self.prompts[i] for i in chosen],
            {kind: [names[i] for i in chosen] for kind, names in self.groups.items()},
        )

    def of_rows(self, rows: NDArray[np.int64]) -> ScoredPairs:
        """The pairs of some of its rows, in their order."""
        place = {int(row): i for i, row in enumerate(self.rows)}
        return self.take([place[int(row)] for row in rows])


def token_counts(dataset: Any) -> dict[int, tuple[int, int]]:
    """Row -> tokens of its chosen and of its rejected answer, 0 if there is none.

    Args:
        dataset: A map-style data set that `orpo.data.Preparation` made.
    """
    table = dataset.with_format("arrow")[:]
    chosen, rejected = (
        pc.list_value_length(table[name]).to_pylist() for name in ("chosen_ids", "rejected_ids")
    )
    rows = table["row"].to_pylist()
    return {row: (c, r) for row, c, r in zip(rows, chosen, rejected, strict=True)}
