"""One seed, one run: to the bit on one machine, and the committed curve on all of them.

The curve changes only where the objective, the order of the data, or the optimizer's steps do.
Where that is meant: `ORPO_NEW_GOLDEN=1 pytest tests/train/test_golden.py`, and say why.
"""

import json
import os
from pathlib import Path

import pytest

from orpo import ORPOTrainer
from tests.train.whole_runs import lines_of, same_bits, trainer_for

CURVE = Path(__file__).with_name("golden_curve.json")
NAMES = ("loss", "nll_loss", "log_odds_chosen", "grad_norm")


def run(folder: Path, steps: int, **settings: object) -> ORPOTrainer:
    trainer = trainer_for(
        folder, max_steps=steps, logging_steps=1, save_strategy="no", seed=7, **settings
    )
    trainer.train()
    return trainer


@pytest.mark.slow
def test_two_runs_are_the_same_to_the_bit(tmp_path: Path) -> None:
    first, second = (run(tmp_path / name, 12) for name in "ab")
    assert same_bits(first.model.parameters(), second.model.parameters())
    lines = lines_of(tmp_path / "a")
    assert len(lines) == 13
    assert lines == lines_of(tmp_path / "b")
    other = run(tmp_path / "c", 12, data_seed=8)
    assert not same_bits(first.model.parameters(), other.model.parameters())


@pytest.mark.parametrize("engine", ["shared", "padded"])
def test_the_curve_is_the_one_that_was_committed(tmp_path: Path, engine: str) -> None:
    run(tmp_path, 20, engine=engine)
    lines = [line for line in lines_of(tmp_path) if "loss" in line]
    curve = {name: [line[name] for line in lines] for name in NAMES}
    if os.environ.get("ORPO_NEW_GOLDEN") and engine == "padded":
        CURVE.write_text(json.dumps(curve, indent=1) + "\n")
    golden = json.loads(CURVE.read_text())
    assert golden.keys() == curve.keys()
    for name, values in golden.items():
        assert len(values) == 20
        # An odds ratio is a difference, which may be near zero.
        assert curve[name] == pytest.approx(values, rel=1e-5, abs=1e-6), name
