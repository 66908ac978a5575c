"""Beside the official code, where it is installed and its imports still work."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import GroupKFold

from orpo.evaluate import length_controlled_win_rate
from orpo.evaluate.win_rates import fit

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    official: Any = pytest.importorskip(
        "alpaca_eval.metrics.glm_winrate",
        reason="the official alpaca-eval package is not installed or does not import",
        exc_type=ImportError,
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", ["claude", "gpt4_gamed", "NullModel", "phi-2-sft"])
def test_the_same_fit_as_the_official_code(
    shared_data: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shared_data / "alpaca_eval"
    rows = pd.read_csv(folder / "annotations.csv.gz").query("model == @model")
    monkeypatch.setattr(official, "hf_hub_download", lambda filename, **_: str(folder / filename))
    theirs = official.get_length_controlled_winrate(
        pd.DataFrame(
            {
                "preference": list(rows.preference),
                "output_1": ["x" * n for n in rows.len_output_1],
                "output_2": ["x" * n for n in rows.len_output_2],
                "generator_1": "baseline",
                "generator_2": "model",
            }
        ),
        save_weights_dir=None,
    )
    monkeypatch.setattr(fit, "_folds", _folds_of_today)
    ours = length_controlled_win_rate(
        rows,
        difficulty=pd.read_csv(folder / "instruction_difficulty.csv"),
        gamed=pd.read_csv(folder / "df_gamed.csv"),
    )
    assert ours.win_rate == pytest.approx(theirs["win_rate"], abs=1e-9)
    assert ours.standard_error == pytest.approx(theirs["standard_error"], abs=1e-9)
    assert ours.lc_win_rate == pytest.approx(theirs["length_controlled_winrate"], abs=1e-4)
    assert ours.lc_standard_error == pytest.approx(theirs["lc_standard_error"], abs=1e-4)


def _folds_of_today(count: int) -> Any:
    folds = np.empty(count, dtype=np.int64)
    for k, (_, test) in enumerate(GroupKFold(5).split(folds, groups=range(count))):
        folds[test] = k
    return folds
