"""One optimizer step has one gradient, however its pairs are dealt out.

`pytest tests/train/test_normalisation.py -rP` prints the relative differences.
"""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from orpo import ORPOTrainer
from tests.train.jobs import on_two_ranks
from tests.train.one_step import MeanOfMeans, quiet_trainer, step_gradients
from tests.train.oracle_fp64 import gradients, pairs_of, relative_difference
from tests.train.small import Stream, text_rows, tiny_llama
from tests.train.whole_runs import losses_of

SPLITS: dict[str, dict[str, Any]] = {
    "8 pairs at once": {"per_device_train_batch_size": 8},
    "1 pair, 8 times": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
    "2 pairs, 4 times": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "by tokens, 4 pairs, twice": {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_tokens_per_microbatch": 120,
    },
}
TIMING = ("epoch", "runtime", "per_second", "preparation_time", "_flos", "grad_norm")


def exact_gradients(folder: Path, **settings: Any) -> dict[str, Tensor]:
    """The oracle's gradients over the same token ids."""
    trainer = quiet_trainer(ORPOTrainer, str(folder), train_dataset=text_rows())
    return gradients(tiny_llama(), pairs_of(trainer.train_dataset), alpha=0.5, **settings)


@pytest.mark.parametrize("nll_scope", ["sequence", "completion"])
def test_every_split_has_the_gradient_of_the_whole_step(tmp_path: Path, nll_scope: str) -> None:
    exact = exact_gradients(tmp_path, nll_scope=nll_scope)
    for split, settings in SPLITS.items():
        ours = step_gradients(str(tmp_path / "run"), nll_scope=nll_scope, **settings)
        difference = relative_difference(ours, exact)
        print(f"{split}, {nll_scope}: {difference:.1e}")
        assert difference < 1e-5, split


@pytest.mark.parametrize("split", ["8 pairs at once", "2 pairs, 4 times"])
def test_a_mean_of_means_would_be_caught(tmp_path: Path, split: str) -> None:
    wrong = step_gradients(str(tmp_path / "a"), kind=MeanOfMeans, **SPLITS[split])
    difference = relative_difference(wrong, exact_gradients(tmp_path))
    print(f"mean of means, {split}: {difference:.1e}")
    # Nothing else is wrong with it.
    assert difference < 1e-5 if split == "8 pairs at once" else difference > 1e-2


def test_an_incomplete_last_step_counts_its_own_pairs(tmp_path: Path) -> None:
    """Eleven pairs, four by four times two: the second step has three pairs."""
    losses = []
    for split in ("8 pairs at once", "2 pairs, 4 times"):
        plan = {"max_steps": 2, "logging_steps": 1, "learning_rate": 1e-2, "warmup_steps": 0}
        trainer = quiet_trainer(
            ORPOTrainer, str(tmp_path), train_dataset=text_rows(11), **plan, **SPLITS[split]
        )
        trainer.train()
        losses.append([line["loss"] for line in losses_of(trainer)])
    assert len(losses[0]) == 2
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


# Two ranks


NOISE = {"neftune_noise_alpha": 5.0}
"""NEFTune's, which is that of each pair."""
DYNAMIC = {
    "max_position_embeddings": 40,
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
}
"""Positions of which longer sequences have their own: ranks differ in their number of passes."""


def a_step_of_each_kind(out: Path) -> dict[str, Any]:
    logged = quiet_trainer(
        ORPOTrainer,
        str(out / "run"),
        train_dataset=text_rows(),
        eval_dataset={"map": text_rows(7), "stream": Stream(text_rows(7))},
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        gradient_accumulation_steps=2,
        logging_steps=1,
    )
    logged.train()
    four = {"per_device_train_batch_size": 4}
    settings: dict[str, dict[str, Any]] = {
        "exact": four,
        "accumulated": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
        "split": {**four, "max_tokens_per_microbatch": 100},
        "noise": {**four, **NOISE},
        "dynamic": {**four, "model": tiny_llama(**DYNAMIC)},
        "mean of means": {**four, "kind": MeanOfMeans},
    }
    return {
        "line": losses_of(logged)[0],
        "evaluation": logged.evaluate(),
        **{name: step_gradients(str(out / name), **given) for name, given in settings.items()},
    }


@pytest.mark.slow
def test_two_ranks_have_the_gradients_and_the_numbers_of_one(tmp_path: Path) -> None:
    found, _ = on_two_ranks(a_step_of_each_kind, tmp_path)
    exact, whole = exact_gradients(tmp_path), {"per_device_train_batch_size": 8}
    expected = dict.fromkeys(("exact", "accumulated", "split"), exact)
    expected["noise"] = step_gradients(str(tmp_path / "n"), **whole, **NOISE)
    expected["dynamic"] = step_gradients(str(tmp_path / "d"), **whole, model=tiny_llama(**DYNAMIC))
    for name, theirs in expected.items():
        difference = relative_difference(found[name], theirs)
        print(f"2 ranks x 4, {name}: {difference:.1e}")
        assert difference < 1e-5, name
    assert relative_difference(found["mean of means"], exact) > 1e-4  # would be caught

    data = {"train_dataset": text_rows(), "eval_dataset": text_rows(7)}
    alone = quiet_trainer(ORPOTrainer, str(tmp_path / "a"), logging_steps=1, **whole, **data)
    alone.train()
    both, line = found["evaluation"], found["line"]
    assert "rewards/margins" in line
    pairs = [(line[name], losses_of(alone)[0][name], name) for name in line]
    for name, value in alone.evaluate().items():  # seven rows: a rank's last batch is filled up
        pairs += [
            (both[name.replace("eval_", f"eval_{kind}_")], value, name)
            for kind in ("map", "stream")
            if not any(part in name for part in TIMING)
        ]
    for ours, theirs, name in pairs:
        if not any(part in name for part in TIMING):
            assert ours == pytest.approx(theirs, rel=1e-5), name
