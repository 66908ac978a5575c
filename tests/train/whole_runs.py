"""Runs to compare to the bit: one that was never interrupted, and one that went on."""

import dataclasses
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from orpo import ORPOTrainer
from orpo.errors import CheckpointError
from orpo.runs.checkpoints import checkpoints
from orpo.runs.manifest import verify
from tests.train.one_step import quiet_trainer
from tests.train.small import text_rows

# What a clock says.
_OF_THE_CALL = ("runtime", "per_second", "preparation_time")


def trainer_for(folder: Path, **kwargs: Any) -> ORPOTrainer:
    """A trainer of the tiny model whose every step moves the weights by much."""
    settings: dict[str, Any] = {
        "train_dataset": text_rows(11),
        "eval_dataset": text_rows(5),
        "learning_rate": 1e-2,
        "max_grad_norm": 1.0,
        "warmup_steps": 0,
        "logging_steps": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "train_sampling_strategy": "random",
        "save_strategy": "steps",
        "data_cache": "off",
        "disable_tqdm": True,
    }
    return quiet_trainer(ORPOTrainer, str(folder), **{**settings, **kwargs})


def finished(
    folder: Path, resume: str | bool | None = None, *, said: list[str] | None = None, **kwargs: Any
) -> ORPOTrainer:
    """A run to its end, whose model is saved."""
    trainer = trainer_for(folder, **kwargs)
    if said is not None:
        trainer.say = said.append
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    return trainer


def looks_killed(whole: Path, folder: Path, *steps: int) -> Path:
    """The folder of a run that was killed after it had saved these checkpoints, and a bit more."""
    folder.mkdir()
    for name in ("recipe.yaml", "metrics.jsonl"):
        shutil.copy(whole / name, folder)
    for step in steps:
        shutil.copytree(whole / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    return folder


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def weights_of(folder: Path) -> dict[str, Tensor]:
    """The model, or adapter, that a run left in its folder, which must be as committed."""
    verify(folder)
    return load_file(next(iter(folder.glob("*model.safetensors"))))


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl, but for times; every line of it must be whole."""
    text = (folder / "metrics.jsonl").read_text()
    assert not text or text.endswith("\n")
    return [_without_times(json.loads(line)) for line in text.splitlines()]


def losses_of(trainer: ORPOTrainer) -> list[dict[str, Any]]:
    """The lines that were logged of training."""
    return [line for line in trainer.state.log_history if "loss" in line]


def _without_times(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if not any(s in name for s in _OF_THE_CALL)}


def differences(folder: Path, whole: Path) -> list[str]:
    """How a run that went on differs from the one that was never interrupted; nothing, if well."""
    found = []
    ours, theirs = weights_of(folder), weights_of(whole)
    if ours.keys() != theirs.keys():
        found.append(f"weights are called {sorted(ours)}")
    both = theirs.keys() & ours.keys()
    found += [f"{name} differs" for name in both if not torch.equal(ours[name], theirs[name])]
    lines, expected = lines_of(folder), lines_of(whole)
    if lines != expected:
        wrong = [(a, b) for a, b in zip(lines, expected, strict=False) if a != b]
        found.append(f"metrics.jsonl has {len(lines)} of {len(expected)} lines: {wrong}")
    found += [f"{path.name} is left" for path in folder.glob(".*")]
    for path in checkpoints(folder):
        try:
            verify(path)
        except CheckpointError as error:
            found.append(str(error))
    return found


def state_of(trainer: ORPOTrainer) -> dict[str, Any]:
    """What transformers knows of the run at its end, but for times and places."""
    told: dict[str, Any] = dataclasses.asdict(trainer.state)
    told["log_history"] = [_without_times(line) for line in told["log_history"]]
    own = {"stateful_callbacks", "best_model_checkpoint"}
    return {name: value for name, value in told.items() if name not in own}


def names(folder: Path) -> list[str]:
    """The checkpoints that there are, each as it was committed."""
    return [path.name for path in checkpoints(folder) if verify(path)]


def same_bits(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> bool:
    """Whether all tensors are equal to the bit."""
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
