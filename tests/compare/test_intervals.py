"""Intervals over prompts and seeds: they cover, and they widen where seeds disagree."""

from __future__ import annotations

import numpy as np
import pytest

from orpo.experiments.compare.intervals import change_interval, level_interval

PROMPTS = [f"prompt {n}" for n in range(60)]


def test_one_run_has_the_interval_over_prompts() -> None:
    from orpo.evaluate.intervals import mean_interval

    run = [float(n % 3 == 0) for n in range(60)]
    assert level_interval([run], PROMPTS) == mean_interval(run, PROMPTS)


def test_seeds_that_disagree_widen_the_interval() -> None:
    random = np.random.default_rng(0)
    run = random.normal(size=60)
    alike = level_interval([list(run)] * 3, PROMPTS)
    apart = level_interval([list(run + shift) for shift in (-1.0, 0.0, 1.0)], PROMPTS)
    assert apart.value == pytest.approx(alike.value)
    # Two degrees of freedom: 4.3 standard errors of 1 / sqrt(3), hardly more.
    assert 2.48 < apart.high - apart.value < 2.6
    assert alike.high - alike.value < 0.4


def test_a_base_model_stands_beside_every_seed() -> None:
    base, runs = [[0.0] * 60], [[0.5 + n / 100 for n in range(60)], [1.0] * 60]
    found = change_interval(base, runs, PROMPTS)
    assert found.value == pytest.approx(np.mean(runs))


def test_shares_stay_shares() -> None:
    runs = [[1.0] * 60, [1.0] * 60, [1.0] * 55 + [0.0] * 5]
    found = level_interval(runs, PROMPTS)
    assert 0 < found.low < found.value < found.high <= 1


@pytest.mark.parametrize("spread", [0.0, 0.3])
@pytest.mark.parametrize("seeds", [2, 3])
def test_intervals_of_differences_cover(spread: float, seeds: int) -> None:
    """Simulated comparisons: a true difference of 0.3, prompts and seeds both drawn."""
    random = np.random.default_rng(7)
    trials, covered = 120, 0
    for _ in range(trials):
        prompt = random.normal(size=60)
        before = prompt + random.normal(0, spread, (seeds, 1)) + random.normal(0, 0.3, (seeds, 60))
        own = random.normal(0, 0.4, 60) + 0.3
        after = prompt + own + random.normal(0, spread, (seeds, 1))
        after = after + random.normal(0, 0.3, (seeds, 60))
        found = change_interval(before.tolist(), after.tolist(), PROMPTS)
        covered += found.low <= 0.3 <= found.high
    assert covered / trials >= 0.91  # two standard errors below 0.95


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="pairs"):
        level_interval([[1.0, 0.0]], ["a"])
    with pytest.raises(ValueError, match="runs"):
        change_interval([[1.0]] * 2, [[1.0]] * 3, ["a"])
