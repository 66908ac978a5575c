"""One optimizer step has one gradient, however its pairs are dealt out.

`pytest tests/train/test_normalisation.py -rP` prints the relative differences.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from orpo import ORPOTrainer
from tests import forked
from tests.train.one_step import MeanOfMeans, quiet_trainer, step_gradients
from tests.train.oracle_fp64 import gradients, pairs_of, relative_difference
from tests.train.ranks_worker import DYNAMIC, NOISE
from tests.train.small import text_rows, tiny_llama

REPOSITORY = Path(__file__).parents[2]

SPLITS: dict[str, dict[str, Any]] = {
    "8 pairs at once": {"per_device_train_batch_size": 8},
    "1 pair, 8 times": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
    "2 pairs, 4 times": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "by tokens": {"per_device_train_batch_size": 8, "max_tokens_per_microbatch": 120},
    "by tokens, 4 pairs, twice": {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_tokens_per_microbatch": 120,
    },
}


def exact_gradients(folder: Path, **settings: Any) -> dict[str, Tensor]:
    """The oracle's gradients over the same token ids."""
    trainer = quiet_trainer(ORPOTrainer, str(folder), train_dataset=text_rows())
    return gradients(tiny_llama(), pairs_of(trainer.train_dataset), alpha=0.5, **settings)


@pytest.mark.parametrize("nll_scope", ["sequence", "completion"])
@pytest.mark.parametrize("split", SPLITS)
def test_every_split_has_the_gradient_of_the_whole_step(
    tmp_path: Path, split: str, nll_scope: str
) -> None:
    ours = step_gradients(str(tmp_path / "run"), nll_scope=nll_scope, **SPLITS[split])
    difference = relative_difference(ours, exact_gradients(tmp_path, nll_scope=nll_scope))
    print(f"{split}, {nll_scope}: {difference:.1e}")
    assert difference < 1e-5


@pytest.mark.parametrize("split", ["1 pair, 8 times", "2 pairs, 4 times"])
def test_a_mean_of_means_would_be_caught(tmp_path: Path, split: str) -> None:
    whole = step_gradients(str(tmp_path / "a"), kind=MeanOfMeans, per_device_train_batch_size=8)
    wrong = step_gradients(str(tmp_path / "b"), kind=MeanOfMeans, **SPLITS[split])
    exact = exact_gradients(tmp_path)
    assert relative_difference(whole, exact) < 1e-5  # nothing else is wrong with it
    difference = relative_difference(wrong, exact)
    print(f"mean of means, {split}: {difference:.1e}")
    assert difference > 1e-2


def test_an_incomplete_last_step_counts_its_own_pairs(tmp_path: Path) -> None:
    """Eleven pairs, four by four times two: the second step has three pairs."""
    losses = {}
    for name, settings in {
        "at once": {"per_device_train_batch_size": 8},
        "accumulated": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    }.items():
        trainer = quiet_trainer(
            ORPOTrainer,
            str(tmp_path / name),
            train_dataset=text_rows(11),
            max_steps=2,
            logging_steps=1,
            learning_rate=1e-2,
            warmup_steps=0,
            **settings,
        )
        trainer.train()
        losses[name] = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(losses["at once"]) == 2
    assert losses["accumulated"] == pytest.approx(losses["at once"], rel=1e-5)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two real processes found, talking over gloo."""
    out = tmp_path_factory.mktemp("ranks")
    run = subprocess.run(
        forked.two_ranks("tests.train.ranks_worker", out),
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return out


@pytest.mark.slow
@pytest.mark.parametrize("split", ["exact", "accumulated", "split"])
def test_two_ranks_have_the_gradient_of_one(tmp_path: Path, two_ranks: Path, split: str) -> None:
    ours = load_file(two_ranks / f"{split}.safetensors")
    difference = relative_difference(ours, exact_gradients(tmp_path))
    print(f"2 ranks x 4, {split}: {difference:.1e}")
    assert difference < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["noise", "dynamic"])
def test_two_ranks_have_what_one_has(tmp_path: Path, two_ranks: Path, kind: str) -> None:
    settings: dict[str, Any] = {
        "noise": NOISE,
        "dynamic": {"model": tiny_llama(**DYNAMIC)},
    }[kind]
    alone = step_gradients(str(tmp_path), per_device_train_batch_size=8, **settings)
    ours = load_file(two_ranks / f"{kind}.safetensors")
    assert relative_difference(ours, alone) < 1e-5


@pytest.mark.slow
def test_a_mean_over_ranks_would_be_caught(tmp_path: Path, two_ranks: Path) -> None:
    wrong = load_file(two_ranks / "mean of means.safetensors")
    difference = relative_difference(wrong, exact_gradients(tmp_path))
    print(f"2 ranks x 4, mean of means: {difference:.1e}")
    assert difference > 1e-4


@pytest.mark.slow
def test_two_ranks_log_and_evaluate_as_one(tmp_path: Path, two_ranks: Path) -> None:
    alone = quiet_trainer(
        ORPOTrainer,
        str(tmp_path / "run"),
        train_dataset=text_rows(),
        eval_dataset=text_rows(7),
        per_device_train_batch_size=8,
        logging_steps=1,
    )
    alone.train()
    evaluation = alone.evaluate()
    timing = ("epoch", "runtime", "per_second", "preparation_time", "_flos", "grad_norm")

    both = json.loads((two_ranks / "evaluation.json").read_text())
    for kind in ("map", "stream"):  # seven rows: the last batch of a rank is filled up
        for name, value in evaluation.items():
            if not any(part in name for part in timing):
                theirs = both[name.replace("eval_", f"eval_{kind}_")]
                assert theirs == pytest.approx(value, rel=1e-5), (kind, name)

    lines = (two_ranks / "run" / "metrics.jsonl").read_text().splitlines()
    logged, expected = json.loads(lines[0]), alone.state.log_history[0]
    assert "rewards/margins" in logged
    for name, value in logged.items():
        if not any(part in name for part in timing):
            assert value == pytest.approx(expected[name], rel=1e-5), name
