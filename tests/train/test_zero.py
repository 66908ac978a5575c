"""DeepSpeed's ZeRO-2 and ZeRO-3 with two ranks take the steps of one; where it is installed."""

from __future__ import annotations

import json
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import forked
from tests.train.accelerate_configs import environment
from tests.train.small import text_rows
from tests.train.spread_worker import trainer_of, weights_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
]


@pytest.mark.parametrize(
    ("stage", "engine", "what"), [(2, "shared", "full"), (3, "padded", "lora")]
)
def test_two_ranks_take_the_steps_of_one(
    stage: int, engine: str, what: str, tmp_path: Path
) -> None:
    given = environment(f"zero{stage}", "--mixed_precision", "no")
    done = subprocess.run(
        forked.two_ranks("tests.train.zero_worker", tmp_path, engine, what),
        cwd=Path(__file__).parents[2],
        env={
            **os.environ,
            **{k: v for k, v in given.items() if k.startswith("ACCELERATE_")},
            **{"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        },
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((tmp_path / "found.json").read_text())
    one = trainer_of(
        tmp_path / "one",
        ranks=1,
        engine=engine,
        lora=what == "lora",
        tied=False,
        eval_dataset=text_rows(7),
        max_steps=6,
    )
    assert found["before"] == pytest.approx(one.evaluate()["eval_loss"], rel=1e-6)
    one.train()
    expected = [line["loss"] for line in one.state.log_history if "loss" in line]
    assert found["losses"] == pytest.approx(expected, rel=1e-5)
    assert found["after"] == pytest.approx(one.evaluate()["eval_loss"], rel=1e-5)
    assert found["losses again"] == found["losses"]  # resumed without a pickle being run
    weights = "adapter_model.safetensors" if what == "lora" else "model.safetensors"
    written, again = load_file(tmp_path / "run" / weights), load_file(tmp_path / "again" / weights)
    assert all(torch.equal(again[name], weight) for name, weight in written.items())
    if what == "full":
        for name, weight in weights_of(one).items():
            assert float((written[name] - weight).abs().max()) < 1e-4, name
