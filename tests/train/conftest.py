"""Trainers for short, quiet runs on the CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orpo import ORPOConfig, ORPOTrainer
from tests.train.one_step import any_trainer
from tests.train.small import text_rows


@pytest.fixture
def rows() -> list[dict[str, str]]:
    return text_rows()


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, Any]:
    settings = {"learning_rate": 1e-2, "warmup_steps": 0, "logging_steps": 1, "save_strategy": "no"}
    quiet = {"output_dir": str(tmp_path / "run"), "use_cpu": True, "report_to": "none"}
    return {**quiet, **settings, "max_steps": 1}


@pytest.fixture
def make_config(plain: dict[str, Any]) -> Callable[..., ORPOConfig]:
    """An ORPOConfig for a short, quiet run on the CPU."""
    return lambda **kwargs: ORPOConfig(**{**plain, **kwargs})


@pytest.fixture
def make_trainer(plain: dict[str, Any]) -> Callable[..., ORPOTrainer]:
    """An ORPOTrainer; arguments that it does not take go to the config."""
    return lambda **kwargs: any_trainer(**{**plain, **kwargs})


@pytest.fixture(scope="session")
def stories(shared_data: Path) -> str:
    """Folder of a real Llama of 260K parameters."""
    return str(shared_data / "models" / "stories260K")
