"""Win rates from published coefficients of the length-controlled model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from orpo.errors import DataError
from orpo.evaluate.win_rates.controlled import FEATURES
from orpo.evaluate.win_rates.fit import sigmoid
from orpo.evaluate.win_rates.types import Columns, column, difficulties

__all__ = ["win_rate_from_coefficients"]


def win_rate_from_coefficients(
    coefficients: Mapping[str, float],
    difficulty: Any,
    *,
    baseline: Mapping[str, float] | None = None,
    lengths: Columns | None = None,
) -> float:
    """The win rate, in percent, that fitted coefficients stand for.

    Args:
        coefficients: By the names in `FEATURES`, such as a row of the published table.
        difficulty: As in `length_controlled_win_rate`: of every instruction to average over.
        baseline: Coefficients of another model to compare with; the leaderboard's own baseline
            has zeros.
        lengths: Columns `len_output_1`, `len_output_2` and `index`: put length back in, which
            predicts the raw win rate; without them it is length-controlled.

    Raises:
        DataError: A coefficient or a column is missing.
    """
    weights = np.array(
        [_one(coefficients, name) - (_one(baseline, name) if baseline is not None else 0.0)
         for name in FEATURES]
    )  # fmt: skip
    known = difficulties(difficulty)
    if lengths is None:
        order, tanh = list(known), np.zeros(len(known))
    else:
        order = [int(i) for i in column(lengths, "index", "lengths")]
        first, second = (
            np.asarray(column(lengths, f"len_output_{k}", "lengths"), dtype=np.float64)
            for k in (1, 2)
        )
        tanh = np.tanh((first - second) / (first - second).std(ddof=1))
    features = np.stack([tanh, [known[i] for i in order], np.ones(len(order))], axis=1)
    return 100 * float(sigmoid(features @ weights).mean())


def _one(coefficients: Mapping[str, float], name: str) -> float:
    if name not in coefficients:
        raise DataError(f"no coefficient {name!r}", where="coefficients")
    return float(coefficients[name])
