"""Win rates of known answers: exactness, what is left out, bad input, few prompts."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orpo.errors import ConfigError, DataError
from orpo.evaluate import length_controlled_win_rate, win_rate
from orpo.evaluate.win_rates import fit
from orpo.evaluate.win_rates.rates import FEATURES, LEAST_ROWS, OWN_STRENGTH


def simulated(
    count: int, *, liking: float, better: float = 0.0, gap: float = 0.4, seed: int = 0
) -> tuple[dict[str, Any], dict[int, float]]:
    """A judge with a taste for length, a model that writes longer by a factor of exp(gap)."""
    random = np.random.default_rng(seed)
    first = np.round(random.lognormal(6.5, 0.5, count)) + 1
    second = np.round(random.lognormal(6.5 + gap, 0.5, count)) + 1
    hard = random.normal(size=count)
    delta = (first - second) / (first - second).std(ddof=1)
    p = fit.sigmoid(-liking * np.tanh(delta) + hard + better)
    columns = {
        "index": list(range(count)),
        "preference": list(1 + (random.random(count) < p).astype(float)),
        "len_output_1": list(first),
        "len_output_2": list(second),
    }
    return columns, dict(enumerate(hard))


def test_a_win_rate_is_the_mean_preference() -> None:
    found = win_rate([1, 2, 1.5, 1.25, 0, None, math.nan])
    assert found.win_rate == pytest.approx(100 * (0 + 1 + 0.5 + 0.25 + 0.5) / 5, abs=1e-12)
    assert (found.n, found.n_wins, found.n_losses, found.n_draws) == (5, 1, 2, 2)
    assert found.unjudged == 2
    assert found.discrete_win_rate == pytest.approx(100 * (1 + 1) / 5)
    values = np.array([0, 1, 0.5, 0.25, 0.5])
    assert found.standard_error == pytest.approx(100 * values.std(ddof=1) / math.sqrt(5))
    assert 0 <= found.interval.low < found.win_rate < found.interval.high <= 100


def test_prompts_and_not_rows_make_an_interval_narrow() -> None:
    values = [1.0, 2.0, 1.0, 2.0, 2.0, 1.0] * 4
    once = win_rate(values)
    copied = win_rate(
        [v for v in values for _ in range(5)], [k for k in range(24) for _ in "12345"]
    )
    assert copied.interval.low == pytest.approx(once.interval.low, abs=2)
    assert copied.interval.clusters == 24


@pytest.mark.parametrize("values", [[2.5, 1], [1, 0.5], [-1], [math.inf]])
def test_what_is_no_preference_is_refused(values: list[float]) -> None:
    with pytest.raises(DataError, match="is not between 1 and 2"):
        win_rate(values)


def test_no_verdict_at_all_is_no_win_rate_of_zero() -> None:
    with pytest.raises(DataError, match="none of 2 rows"):
        win_rate([None, math.nan])


def test_a_taste_for_length_is_taken_out() -> None:
    columns, hard = simulated(805, liking=1.5)
    found = length_controlled_win_rate(columns, difficulty=hard)
    assert found.win_rate > 58
    assert found.lc_win_rate == pytest.approx(50, abs=5)
    assert found.lc_interval is not None
    assert found.lc_interval.low < 50 < found.lc_interval.high
    assert found.coefficients is not None
    assert found.coefficients[FEATURES[0]] < -1


def test_a_better_model_stays_better() -> None:
    columns, hard = simulated(805, liking=1.5, better=1.0)
    truth = 100 * fit.sigmoid(np.array(list(hard.values())) + 1.0).mean()
    found = length_controlled_win_rate(columns, difficulty=hard)
    assert found.lc_win_rate == pytest.approx(truth, abs=4)


def test_coefficients_are_at_the_optimum_of_what_they_minimise() -> None:
    """An oracle of its own: the conditions of Karush, Kuhn and Tucker for an L1 penalty."""
    columns, hard = simulated(400, liking=0.8)
    found = length_controlled_win_rate(columns, difficulty=hard)
    delta = np.array(columns["len_output_1"]) - np.array(columns["len_output_2"])
    features = np.stack(
        [np.tanh(delta / delta.std(ddof=1)), list(hard.values()), np.ones(400)], axis=1
    )
    assert found.coefficients is not None
    assert found.strength is not None
    weights = np.array(list(found.coefficients.values()))
    p = 1 / (1 + np.exp(-features @ weights))
    slope = found.strength * features.T @ (np.array(columns["preference"]) - 1 - p)
    assert slope == pytest.approx(np.sign(weights), abs=0.05 * found.strength)


def test_a_table_of_pandas_and_texts_in_place_of_lengths_give_the_same() -> None:
    columns, hard = simulated(60, liking=1.0)
    expected = length_controlled_win_rate(columns, difficulty=hard)
    frame = pd.DataFrame(columns)
    table = pd.DataFrame({"index": list(hard), "instruction_difficulty": list(hard.values())})
    texts = {
        "preference": columns["preference"],
        "output_1": ["猫" * int(n) for n in columns["len_output_1"]],
        "output_2": ["x" * int(n) for n in columns["len_output_2"]],
    }
    for rows in (frame, texts):
        known = (table, hard, pd.Series(hard), table.set_index("index"), list(hard.values()))
        for difficulty in known:
            assert length_controlled_win_rate(rows, difficulty=difficulty) == expected


def test_rows_in_another_order_keep_their_difficulty() -> None:
    columns, hard = simulated(200, liking=1.0)
    shuffled = pd.DataFrame(columns).sample(frac=1, random_state=0)
    one = length_controlled_win_rate(columns, difficulty=hard)
    other = length_controlled_win_rate(shuffled, difficulty=hard)
    assert other.lc_win_rate == pytest.approx(one.lc_win_rate, abs=0.3)


def test_rows_without_a_verdict_are_counted_and_fitted_around() -> None:
    columns, hard = simulated(300, liking=1.0)
    for place in range(0, 300, 10):
        columns["preference"][place] = None
    found = length_controlled_win_rate(columns, difficulty=hard)
    assert (found.n, found.unjudged) == (270, 30)
    assert found.lc_win_rate is not None


def test_without_difficulties_and_with_equal_lengths_nothing_is_controlled() -> None:
    preference = [2.0] * 30 + [1.0] * 50 + [1.5] * 20
    columns = {"preference": preference, "len_output_1": [90] * 100, "len_output_2": [80] * 100}
    found = length_controlled_win_rate(columns)
    assert found.lc_win_rate == pytest.approx(found.win_rate, abs=0.1)
    assert found.strength == OWN_STRENGTH
    assert found.coefficients is not None
    assert set(found.coefficients) == {FEATURES[0], FEATURES[2]}


def test_few_prompts_have_a_win_rate_and_no_length_control() -> None:
    columns, _ = simulated(LEAST_ROWS - 1, liking=1.0)
    found = length_controlled_win_rate(columns)
    assert found.n == LEAST_ROWS - 1
    assert found.lc_win_rate is None
    assert "30 preferences" in found.note


def test_one_side_only_leaves_the_interval_open() -> None:
    columns, _ = simulated(50, liking=1.0)
    found = length_controlled_win_rate({**columns, "preference": [2.0] * 50})
    assert found.win_rate == 100
    assert found.interval.low < 97
    assert found.lc_win_rate == pytest.approx(100, abs=2)
    assert found.lc_interval is None
    assert found.as_dict()["lc_interval"] is None


def test_bad_tables_are_named() -> None:
    columns, hard = simulated(40, liking=1.0)
    with pytest.raises(DataError, match="no column 'len_output_2'"):
        length_controlled_win_rate({k: v for k, v in columns.items() if k != "len_output_2"})
    with pytest.raises(DataError, match=r"1 instructions have no difficulty.*index 3"):
        length_controlled_win_rate(columns, difficulty={k: v for k, v in hard.items() if k != 3})
    with pytest.raises(ConfigError, match="regularisation rows need"):
        length_controlled_win_rate(columns, gamed={})
    with pytest.raises(DataError, match="no column 'not_gamed_baseline'"):
        length_controlled_win_rate(columns, difficulty=hard, gamed={"std_delta_len": []})


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    columns, hard = simulated(40, liking=1.0)
    with pytest.raises(ConfigError, match=r"pip install 'orpo\[evaluate\]'"):
        length_controlled_win_rate(columns, difficulty=hard)


def test_folds_are_those_of_the_published_fits() -> None:
    """Pinned: should numpy sort objects in another way one day, this says so."""
    folds = fit._folds(2415)
    assert np.bincount(folds).tolist() == [483] * 5
    assert np.argsort(np.zeros(2415, dtype=object))[:6].tolist() == [
        0,
        1606,
        1607,
        1608,
        1609,
        1610,
    ]
    assert folds[[0, 1606, 1607, 1608, 1609, 1610]].tolist() == [4, 3, 2, 1, 0, 4]


@pytest.mark.slow
def test_intervals_contain_the_truth() -> None:
    hits = 0
    for seed in range(60):
        columns, hard = simulated(300, liking=1.0, better=-0.8, seed=seed)
        truth = 100 * np.mean(fit.sigmoid(np.random.default_rng(9).normal(size=200_000) - 0.8))
        interval = length_controlled_win_rate(columns, difficulty=hard).lc_interval
        assert interval is not None
        hits += interval.low <= truth <= interval.high
    assert hits >= 53  # 57 of 60 are expected; below 53 is a chance of one in a hundred
