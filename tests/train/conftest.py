"""Trainers for short, quiet runs on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast, PrinterCallback, ProgressCallback

from orpo import ORPOConfig, ORPOTrainer
from tests.train.small import byte_tokenizer, text_rows, tiny_llama


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture
def rows() -> list[dict[str, str]]:
    return text_rows()


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., ORPOConfig]:
    """An ORPOConfig for a short, quiet run on the CPU."""

    def make(**kwargs: Any) -> ORPOConfig:
        quiet = {
            "output_dir": str(tmp_path / "run"),
            "use_cpu": True,
            "report_to": "none",
            "save_strategy": "no",
            "max_steps": 1,
            "learning_rate": 1e-2,
            "warmup_steps": 0,
            "logging_steps": 1,
        }
        return ORPOConfig(**{**quiet, **kwargs})

    return make


@pytest.fixture
def make_trainer(make_config: Callable[..., ORPOConfig]) -> Callable[..., ORPOTrainer]:
    """An ORPOTrainer; arguments that it does not take go to the config."""
    own = {"model", "train_dataset", "eval_dataset", "tokenizer", "processing_class", "model_init"}
    own |= {"compute_metrics", "callbacks", "peft_config", "args", "data_collator"}

    def make(**kwargs: Any) -> ORPOTrainer:
        given = {key: value for key, value in kwargs.items() if key in own}
        settings = {key: value for key, value in kwargs.items() if key not in own}
        if "model" not in given and "model_init" not in given:
            given["model"] = tiny_llama()
        if "tokenizer" not in given and "processing_class" not in given:
            given["tokenizer"] = byte_tokenizer()
        given.setdefault("args", make_config(**settings))
        trainer = ORPOTrainer(**given)
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        return trainer

    return make


@pytest.fixture(scope="session")
def stories(shared_data: Path) -> str:
    """Folder of a real Llama of 260K parameters."""
    return str(shared_data / "models" / "stories260K")
