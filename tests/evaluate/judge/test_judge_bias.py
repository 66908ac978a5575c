"""Figures of bias against counting, scikit-learn, scipy and simulations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from orpo.evaluate.intervals import auc_interval

VALUES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=20)


@given(VALUES, VALUES)
def test_auc(positives: list[float], negatives: list[float]) -> None:
    found = auc_interval(positives, negatives)
    assert found is not None
    labels = [1] * len(positives) + [0] * len(negatives)
    assert found.value == pytest.approx(roc_auc_score(labels, positives + negatives))
    assert 0 <= found.low <= found.value <= found.high <= 1
    mirrored = auc_interval(negatives, positives)
    assert mirrored is not None
    assert mirrored.low == pytest.approx(1 - found.high, abs=1e-9)


def test_auc_is_not_sure_of_itself_at_the_border() -> None:
    found = auc_interval([2.0] * 10, [1.0] * 10)
    assert found is not None
    assert (found.value, found.high) == (1.0, 1.0)
    assert 0.6 < found.low < 0.95
    assert auc_interval([], [1.0]) is None


@pytest.mark.parametrize(("shift", "counts"), [(0.0, (30, 40)), (1.0, (40, 40)), (2.0, (25, 60))])
def test_auc_intervals_cover(shift: float, counts: tuple[int, int]) -> None:
    rng = np.random.default_rng(7)
    truth = stats.norm.cdf(shift / np.sqrt(2))
    inside = 0
    for _ in range(1000):
        wins, losses = rng.normal(shift, 1, counts[0]), rng.normal(0, 1, counts[1])
        found = auc_interval(wins.tolist(), losses.tolist())
        assert found is not None
        inside += found.low <= truth <= found.high
    assert 930 <= inside <= 975
