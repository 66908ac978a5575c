"""Win rates: the published AlpacaEval 2 results from the annotations behind them, known answers."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orpo.errors import ConfigError, DataError
from orpo.evaluate import WinRate, length_controlled_win_rate, win_rate, win_rates
from orpo.evaluate.win_rates import FEATURES, OWN_STRENGTH

FITTED = (  # those whose published table has standard errors; those that were gamed; others
    *("NullModel", "FuseChat-Gemma-2-9B-Instruct", "FuseChat-Qwen-2.5-7B-Instruct"),
    *("FuseChat-Llama-3.2-1B-Instruct", "vicuna-13b-v1.5-togetherai"),
    *("gpt4_gamed", "claude", "phi-2-sft", "claude-instant-1.2"),
)


@pytest.fixture(scope="module")
def tables(shared_data: Path) -> dict[str, Any]:
    folder = shared_data / "alpaca_eval"
    return {
        "annotations": dict(list(pd.read_csv(folder / "annotations.csv.gz").groupby("model"))),
        "leaderboard": pd.read_csv(folder / "leaderboard.csv", index_col=0),
        "coefficients": pd.read_csv(folder / "coefficients.csv", index_col=0),
        "difficulty": pd.read_csv(folder / "instruction_difficulty.csv"),
        "gamed": pd.read_csv(folder / "df_gamed.csv"),
    }


def test_win_rates_are_the_published_ones(tables: dict[str, Any]) -> None:
    known = set(tables["annotations"]) & set(tables["leaderboard"].index)
    assert len(known) == 25  # of the 26, text_davinci_003 is not in the published table
    for model in known:
        ours = win_rate(tables["annotations"][model].preference)
        published = tables["leaderboard"].loc[model]
        for name in ("win_rate", "standard_error", "discrete_win_rate"):
            assert getattr(ours, name) == pytest.approx(published[name], abs=1e-6), model
        counts = published[["n_total", "n_wins", "n_wins_base", "n_draws"]]
        assert [ours.n, ours.n_wins, ours.n_losses, ours.n_draws] == counts.tolist()


def test_length_controlled_win_rates_are_the_published_ones(
    tables: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(model: str) -> WinRate:
        rows = tables["annotations"][model]
        known = {name: tables[name] for name in ("difficulty", "gamed")}
        return length_controlled_win_rate(rows, **known)

    published = tables["leaderboard"].loc[[m for m in FITTED if m in tables["annotations"]]]
    assert len(published) == len(FITTED)
    for model, row in published.iterrows():
        ours = fit(str(model))
        near = 0.2 if model == "NullModel" else 0.1
        assert ours.lc_win_rate == pytest.approx(row.length_controlled_winrate, abs=near)
        if not math.isnan(row.lc_standard_error):
            assert ours.lc_standard_error == pytest.approx(row.lc_standard_error, abs=0.002)
        for name, value in tables["coefficients"].loc[model].items():
            assert ours.coefficients[name] == pytest.approx(value, abs=0.08), (model, name)
    # Why the order of an unstable sort is kept: with a stable one gpt4_gamed is 0.15 off.
    monkeypatch.setattr(win_rates, "_folds", lambda n: (n - 1 - pd.RangeIndex(n)) % 5)
    off = (fit("gpt4_gamed").lc_win_rate or 0) - published.length_controlled_winrate["gpt4_gamed"]
    assert abs(off) > 0.1


def simulated(
    count: int, *, liking: float, better: float = 0.0, gap: float = 0.4, seed: int = 0
) -> tuple[dict[str, Any], dict[int, float]]:
    """A judge with a taste for length, a model that writes longer by a factor of exp(gap)."""
    random = np.random.default_rng(seed)
    first = np.round(random.lognormal(6.5, 0.5, count)) + 1
    second = np.round(random.lognormal(6.5 + gap, 0.5, count)) + 1
    hard = random.normal(size=count)
    delta = (first - second) / (first - second).std(ddof=1)
    p = win_rates.sigmoid(-liking * np.tanh(delta) + hard + better)
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


def test_what_is_no_preference_is_refused() -> None:
    for values in ([2.5, 1], [1, 0.5], [-1], [math.inf]):
        with pytest.raises(DataError, match="is not between 1 and 2"):
            win_rate(values)
    with pytest.raises(DataError, match="none of 2 rows"):
        win_rate([None, math.nan])


def test_a_taste_for_length_is_taken_out() -> None:
    columns, hard = simulated(805, liking=1.5)
    found = length_controlled_win_rate(columns, difficulty=hard)
    assert found.win_rate > 58
    assert found.lc_win_rate == pytest.approx(50, abs=5)
    assert found.lc_interval.low < 50 < found.lc_interval.high
    assert found.coefficients[FEATURES[0]] < -1
    columns, hard = simulated(805, liking=1.5, better=1.0)  # a better model stays better
    truth = 100 * win_rates.sigmoid(np.array(list(hard.values())) + 1.0).mean()
    found = length_controlled_win_rate(columns, difficulty=hard)
    assert found.lc_win_rate == pytest.approx(truth, abs=4)


def test_coefficients_are_at_the_optimum_of_what_they_minimise() -> None:
    """An oracle of its own: the conditions of Karush, Kuhn and Tucker for an L1 penalty."""
    columns, hard = simulated(400, liking=0.8)
    found = length_controlled_win_rate(columns, difficulty=hard)
    delta = np.array(columns["len_output_1"]) - np.array(columns["len_output_2"])
    tanh = np.tanh(delta / delta.std(ddof=1))
    features = np.stack([tanh, list(hard.values()), np.ones(400)], axis=1)
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


def test_without_difficulties_and_with_equal_lengths_nothing_is_controlled() -> None:
    preference = [2.0] * 30 + [1.0] * 50 + [1.5] * 20
    columns = {"preference": preference, "len_output_1": [90] * 100, "len_output_2": [80] * 100}
    found = length_controlled_win_rate(columns)
    assert found.lc_win_rate == pytest.approx(found.win_rate, abs=0.1)
    assert found.strength == OWN_STRENGTH
    assert set(found.coefficients) == {FEATURES[0], FEATURES[2]}


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
    monkeypatch.setitem(sys.modules, "sklearn", None)
    columns, hard = simulated(40, liking=1.0)
    with pytest.raises(ConfigError, match=r"pip install 'orpo\[evaluate\]'"):
        length_controlled_win_rate(columns, difficulty=hard)


def test_folds_are_those_of_the_published_fits() -> None:
    """Pinned: should numpy sort objects in another way one day, this says so."""
    folds = win_rates._folds(2415)
    assert np.bincount(folds).tolist() == [483] * 5
    order = np.argsort(np.zeros(2415, dtype=object))[:6].tolist()
    assert order == [0, 1606, 1607, 1608, 1609, 1610]
    assert folds[order].tolist() == [4, 3, 2, 1, 0, 4]


@pytest.mark.slow
def test_intervals_contain_the_truth() -> None:
    hits = 0
    for seed in range(20):
        columns, hard = simulated(300, liking=1.0, better=-0.8, seed=seed)
        others = np.random.default_rng(9).normal(size=200_000)
        truth = 100 * np.mean(win_rates.sigmoid(others - 0.8))
        interval = length_controlled_win_rate(columns, difficulty=hard).lc_interval
        hits += interval.low <= truth <= interval.high
    assert hits >= 17  # 19 of 20 are expected; below 17 is a chance of two in a hundred
