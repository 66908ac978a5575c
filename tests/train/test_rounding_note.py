"""Full fine-tuning of 16-bit weights is said to leave most of them where they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from orpo import ORPOConfig, ORPOTrainer
from orpo.train.weights import movable_share
from tests.train.small import byte_tokenizer, text_rows, tiny_llama


def notes(folder: Path, dtype: torch.dtype, rate: float, **given: Any) -> list[str]:
    args = ORPOConfig(
        str(folder),
        use_cpu=True,
        report_to="none",
        learning_rate=rate,
        max_steps=1,
        warmup_steps=0,
        lr_scheduler_type="constant",
        max_length=64,
    )
    trainer = ORPOTrainer(
        model=tiny_llama().to(dtype),
        args=args,
        train_dataset=text_rows(),
        tokenizer=byte_tokenizer(),
        **given,
    )
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.dim() > 1}
    trainer.train()
    moved = [(p.detach() != before[n]) for n, p in trainer.model.named_parameters() if n in before]
    trainer.notes.append(str(float(torch.cat([one.reshape(-1) for one in moved]).float().mean())))
    return trainer.notes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rate", [1e-6, 1e-5, 1e-4])
def test_the_share_is_that_of_a_step(tmp_path: Path, dtype: torch.dtype, rate: float) -> None:
    """Adam's first update is the learning rate in size, where there is a gradient."""
    told = notes(tmp_path, dtype, rate)
    said = [line for line in told if "rounded away" in line]
    assert len(said) == 1
    found = re.search(r"about ([\d.]+)% of them", said[0])
    assert found is not None
    assert float(found[1]) / 100 >= float(told[-1]) - 0.02  # rows that no token meets stay
    assert float(found[1]) < 100 or rate == 1e-4


def test_nothing_is_said_where_nothing_is_lost(tmp_path: Path) -> None:
    assert not any("rounded away" in line for line in notes(tmp_path, torch.float32, 1e-6))
    adapter = LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj"])
    said = notes(tmp_path / "lora", torch.bfloat16, 1e-6, peft_config=adapter)
    assert not any("rounded away" in line for line in said)


def test_the_share_by_hand() -> None:
    """In bfloat16 the numbers from 1 to 2 are 2^-7 apart, those from 4 to 8 2^-5."""
    weights = [torch.tensor([1.25, 1.5, 1.75, 5.0], dtype=torch.bfloat16)]
    assert movable_share(weights, 2**-7) == 0.75
    assert movable_share(weights, 2**-10) == 0.0
    assert movable_share(weights, 2.0) == 1.0
