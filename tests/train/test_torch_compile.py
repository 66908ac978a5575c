"""Whole models are not compiled: said in one line before anything is loaded or tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from orpo import ConfigError, ORPOConfig
from orpo.commands.main import main
from tests.train.one_step import any_trainer
from tests.train.small import text_rows, tiny_llama


@pytest.mark.parametrize(
    ("asked", "environment", "said"),
    [
        ({"torch_compile": True}, "NO", "torch_compile: .*set compile_blocks instead"),
        ({"torch_compile_backend": "inductor"}, "NO", "torch_compile_backend: .*compile_blocks"),
        ({"torch_compile_mode": "reduce-overhead"}, "NO", "torch_compile_mode: .*compile_blocks"),
        ({}, "INDUCTOR", "dynamo_backend"),  # a launcher asks for it
        ({}, "NO", ""),
    ],
)
def test_what_asks_for_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Any, environment: str, said: str
) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", environment)
    if not said:
        ORPOConfig(output_dir=str(tmp_path), **asked)
        return
    with pytest.raises(ConfigError, match=said):
        ORPOConfig(output_dir=str(tmp_path), **asked)


def test_the_command_says_it_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = ["train", "--model", "m", "--dataset", "d", "--output_dir", str(tmp_path / "run")]
    assert main([*given, "--torch_compile", "true"]) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "torch_compile" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("in_place", [True, False])
def test_a_compiled_model_is_refused(tmp_path: Path, in_place: bool) -> None:
    model = tiny_llama()
    if in_place:
        model.compile(backend="eager")
    else:
        model = torch.compile(model, backend="eager")
    with pytest.raises(ConfigError, match="a compiled model cannot be trained"):
        any_trainer(output_dir=str(tmp_path), model=model, train_dataset=text_rows())
