"""Runs to compare to the bit: one that was never interrupted, and one that went on."""

from __future__ import annotations

import dataclasses
import json
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


def weights_of(folder: Path) -> dict[str, Tensor]:
    """The model, or adapter, that a run left in its folder, which must be as committed."""
    verify(folder)
    return load_file(next(iter(folder.glob("*model.safetensors"))))


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl, but for times; every line of it must be whole."""
    text = (folder / "metrics.jsonl").read_text()
    assert not text or text.endswith("\n")
    return [_without_times(json.loads(line)) for line in text.splitlines()]


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
        steps = [[(line["step"], *line) for line in each] for each in (lines, expected)]
        wrong = [_unlike(a, b) for a, b in zip(lines, expected, strict=False) if a != b]
        found.append(f"metrics.jsonl differs: {wrong or steps}")
    return found + leftovers(folder)


def state_of(trainer: ORPOTrainer) -> dict[str, Any]:
    """What transformers knows of the run at its end, but for times and places."""
    told: dict[str, Any] = dataclasses.asdict(trainer.state)
    told["log_history"] = [_without_times(line) for line in told["log_history"]]
    own = {"stateful_callbacks", "best_model_checkpoint"}
    return {name: value for name, value in told.items() if name not in own}


def leftovers(folder: Path) -> list[str]:
    """What a finished run should not have left: unfinished saves, broken checkpoints."""
    hidden = [p.name for p in folder.iterdir() if p.name.startswith(".")]
    found = [f"{name} is left" for name in hidden]
    for path in checkpoints(folder):
        try:
            verify(path)
        except CheckpointError as error:
            found.append(str(error))
    return found


def same_bits(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> bool:
    """Whether all tensors are equal to the bit."""
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def _unlike(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    names = ours.keys() | theirs.keys()
    unlike = {n: (ours.get(n), theirs.get(n)) for n in names if ours.get(n) != theirs.get(n)}
    return {"step": theirs["step"], **unlike}
