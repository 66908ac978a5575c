"""Full fine-tuning of 16-bit weights is said to leave most of them where they are."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from orpo.train.weights import movable_share
from tests.train.one_step import any_trainer
from tests.train.small import text_rows, tiny_llama


def told(folder: Path, dtype: torch.dtype, rate: float, **given: Any) -> tuple[list[str], float]:
    """Notes on what is rounded away, and the share of the weights that a step has moved."""
    plan = {"learning_rate": rate, "warmup_steps": 0, "lr_scheduler_type": "constant"}
    model, data = tiny_llama().to(dtype), text_rows()
    trainer = any_trainer(output_dir=str(folder), model=model, train_dataset=data, **plan, **given)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.dim() > 1}
    trainer.train()
    moved = [(p.detach() != before[n]) for n, p in trainer.model.named_parameters() if n in before]
    share = float(torch.cat([one.reshape(-1) for one in moved]).float().mean())
    return [line for line in trainer.notes if "rounded away" in line], share


@pytest.mark.parametrize(("dtype", "rate"), [(torch.bfloat16, 1e-4), (torch.float16, 1e-6)])
def test_the_share_is_that_of_a_step(tmp_path: Path, dtype: torch.dtype, rate: float) -> None:
    """Adam's first update is the learning rate in size, where there is a gradient."""
    (said,), share = told(tmp_path, dtype, rate)
    found = re.search(r"about ([\d.]+)% of them", said)
    assert found is not None
    assert float(found[1]) / 100 >= share - 0.02  # rows that no token meets stay
    assert float(found[1]) < 100 or rate == 1e-4


def test_nothing_is_said_where_nothing_is_lost(tmp_path: Path) -> None:
    assert told(tmp_path, torch.float32, 1e-6)[0] == []
    adapter = LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj"])
    assert told(tmp_path, torch.bfloat16, 1e-6, peft_config=adapter)[0] == []


def test_the_share_by_hand() -> None:
    """In bfloat16 the numbers from 1 to 2 are 2^-7 apart, those from 4 to 8 2^-5."""
    weights = [torch.tensor([1.25, 1.5, 1.75, 5.0], dtype=torch.bfloat16)]
    assert [movable_share(weights, 2.0**n) for n in (-7, -10, 1)] == [0.75, 0.0, 1.0]
