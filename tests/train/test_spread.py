"""One rank and two ranks are the same run: DDP and FSDP2, both engines, all weights and LoRA.

`pytest tests/train/test_spread.py -rP` prints the differences.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from orpo import ORPOTrainer
from tests import forked
from tests.train.oracle_fp64 import relative_difference
from tests.train.small import text_rows
from tests.train.spread_worker import SCENARIOS, STEPS, FirstGradients, trainer_of, weights_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two real processes found, talking over gloo."""
    out = tmp_path_factory.mktemp("spread")
    done = subprocess.run(
        forked.two_ranks("tests.train.spread_worker", out),
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[ORPOTrainer, Any]]:
    """The same runs by one rank."""
    out, runs = tmp_path_factory.mktemp("alone"), {}
    for name, scenario in SCENARIOS.items():
        _wrapper, *shape = scenario.values()
        key = str(shape)
        if key not in runs:
            engine, lora, tied = shape
            trainer = trainer_of(out / key, engine=engine, lora=lora, tied=tied, ranks=1)
            capture = FirstGradients()
            trainer.add_callback(capture)
            trainer.train()
            runs[key] = (trainer, capture.found)
        runs[name] = runs[key]
    return runs


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_ranks_take_the_steps_of_one(
    name: str, two_ranks: Path, alone: dict[str, tuple[ORPOTrainer, Any]]
) -> None:
    trainer, gradients = alone[name]
    losses = json.loads((two_ranks / "found.json").read_text())[name]["losses"]
    expected = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(losses) == STEPS
    apart = abs(losses[0] - expected[0])
    difference = relative_difference(load_file(two_ranks / f"{name}.gradients"), gradients)
    ours, theirs = load_file(two_ranks / f"{name}.weights"), weights_of(trainer)
    furthest = max(float((ours[n] - theirs[n]).abs().max()) for n in theirs)
    print(f"{name}: loss {apart:.1e}, gradients {difference:.1e}, weights {furthest:.1e}")
    assert expected[-1] < expected[0] - 0.1  # something was learnt
    assert apart <= 2e-6 * max(1.0, expected[0])
    assert difference < 1e-5
    assert ours.keys() == theirs.keys()
    assert furthest < 1e-4


@pytest.mark.parametrize("kept", ["SHARDED_STATE_DICT", "FULL_STATE_DICT"])
def test_checkpoints_in_pieces_and_whole_go_on_as_if_nothing_had_happened(
    kept: str, two_ranks: Path, tmp_path: Path
) -> None:
    found = json.loads((two_ranks / "found.json").read_text())[kept]
    assert found["resumed"]
    assert found["steps"] == 4
    pieces = (two_ranks / kept / "checkpoint-4").glob("*/*.distcp")
    assert bool(list(pieces)) == (kept == "SHARDED_STATE_DICT")

    shape: dict[str, Any] = {"engine": "shared", "lora": False, "tied": False, "ranks": 1}
    one = trainer_of(tmp_path, eval_dataset=text_rows(7), max_steps=4, **shape)
    assert found["before"] == pytest.approx(one.evaluate()["eval_loss"], rel=1e-6)
    one.train()
    assert found["after"] == pytest.approx(one.evaluate()["eval_loss"], rel=1e-5)

    written = load_file(two_ranks / kept / "model.safetensors")  # whole in either case
    for name, weight in load_file(two_ranks / f"{kept}.weights").items():
        assert torch.equal(written[name], weight), name
