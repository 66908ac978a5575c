"""The published AlpacaEval 2 results, from the raw annotations behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orpo.evaluate import WinRate, length_controlled_win_rate
from orpo.evaluate.win_rates import fit


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


@pytest.fixture(scope="module")
def found(tables: dict[str, Any]) -> dict[str, WinRate]:
    return {
        model: length_controlled_win_rate(
            rows, difficulty=tables["difficulty"], gamed=tables["gamed"]
        )
        for model, rows in tables["annotations"].items()
        if model in tables["leaderboard"].index
    }


def test_win_rates_are_the_published_ones(
    tables: dict[str, Any], found: dict[str, WinRate]
) -> None:
    assert len(found) == 25  # of the 26, text_davinci_003 is not in the published table
    for model, ours in found.items():
        published = tables["leaderboard"].loc[model]
        assert ours.win_rate == pytest.approx(published.win_rate, abs=1e-6), model
        assert ours.standard_error == pytest.approx(published.standard_error, abs=1e-6), model
        assert ours.discrete_win_rate == pytest.approx(published.discrete_win_rate, abs=1e-6), model
        assert (ours.n, ours.n_wins, ours.n_losses, ours.n_draws) == (
            published.n_total,
            published.n_wins,
            published.n_wins_base,
            published.n_draws,
        )


def test_length_controlled_win_rates_are_the_published_ones(
    tables: dict[str, Any], found: dict[str, WinRate]
) -> None:
    published = tables["leaderboard"].length_controlled_winrate
    errors = {model: abs(ours.lc_win_rate - published[model]) for model, ours in found.items()}
    assert sum(errors.values()) / len(errors) < 0.02
    assert max(error for model, error in errors.items() if model != "NullModel") < 0.1
    assert errors["NullModel"] < 0.2


def test_so_are_their_standard_errors_and_coefficients(
    tables: dict[str, Any], found: dict[str, WinRate]
) -> None:
    published = tables["leaderboard"].lc_standard_error.dropna()
    assert {"NullModel", "FuseChat-Gemma-2-9B-Instruct"} <= set(published.index)
    for model in set(found) & set(published.index):
        assert found[model].lc_standard_error == pytest.approx(published[model], abs=0.002)
    for model, ours in found.items():
        for name, value in tables["coefficients"].loc[model].items():
            assert ours.coefficients[name] == pytest.approx(value, abs=0.08), (model, name)


def test_folds_as_scikit_learn_deals_them_today_choose_another_penalty(
    tables: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why the order of an unstable sort is kept: with a stable one gpt4_gamed is 0.15 off."""
    monkeypatch.setattr(fit, "_folds", lambda count: (count - 1 - pd.RangeIndex(count)) % 5)
    rows = tables["annotations"]["gpt4_gamed"]
    ours = length_controlled_win_rate(rows, difficulty=tables["difficulty"], gamed=tables["gamed"])
    published = tables["leaderboard"].length_controlled_winrate["gpt4_gamed"]
    assert abs(ours.lc_win_rate - published) > 0.1
