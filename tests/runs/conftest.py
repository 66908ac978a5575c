"""Runs that are made once; a test works on its own copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.jobs.small_run import train


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is never touched."""
    return train(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="session")
def adapter_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with LoRA."""
    return train(tmp_path_factory.mktemp("adapter"), lora_r=2)


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies a run into this test's own folder."""

    def copy(run: Path) -> Path:
        return Path(shutil.copytree(run, tmp_path / "run"))

    return copy
