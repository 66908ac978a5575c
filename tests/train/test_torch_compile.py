"""Whole models are not compiled: said in one line before anything is loaded or tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from orpo import ConfigError, ORPOConfig, ORPOTrainer
from orpo.commands.main import main
from tests.train.one_step import quiet_trainer
from tests.train.small import text_rows, tiny_llama

ASKED: list[dict[str, Any]] = [
    {"torch_compile": True},
    {"torch_compile_backend": "inductor"},
    {"torch_compile_mode": "reduce-overhead"},
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_settings_that_ask_for_it_are_refused(tmp_path: Path, asked: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="set compile_blocks instead") as caught:
        ORPOConfig(output_dir=str(tmp_path), **asked)
    assert next(iter(asked)) in str(caught.value)


def test_the_command_says_it_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = ["train", "--model", "m", "--dataset", "d", "--output_dir", str(tmp_path / "run")]
    assert main([*given, "--torch_compile", "true"]) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "torch_compile" in line
    assert not (tmp_path / "run").exists()


def test_a_launcher_that_asks_for_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    with pytest.raises(ConfigError, match="dynamo_backend"):
        ORPOConfig(output_dir=str(tmp_path))
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    ORPOConfig(output_dir=str(tmp_path))


@pytest.mark.parametrize("in_place", [True, False])
def test_a_compiled_model_is_refused(tmp_path: Path, in_place: bool) -> None:
    model = tiny_llama()
    if in_place:
        model.compile(backend="eager")
    else:
        model = torch.compile(model, backend="eager")
    with pytest.raises(ConfigError, match="a compiled model cannot be trained"):
        quiet_trainer(ORPOTrainer, str(tmp_path), model=model, train_dataset=text_rows())
