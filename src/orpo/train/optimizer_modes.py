"""Optimizers that train other weights than those to be used, such as schedule-free ones.

`optimizer.eval()` puts the weights to be used into the model, `optimizer.train()` those to be
trained further (arXiv 2405.15682). The way there and back rounds, so the exact weights are put
back, and kept beside a checkpoint: a run computes the same wherever it is evaluated, saved or
stopped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from orpo.errors import CheckpointError

__all__ = ["TRAINED", "Exact", "put_back", "switching", "to_be_used", "write_trained"]

TRAINED = "train_weights.pt"

Exact = list[tuple[nn.Parameter, Tensor]]


def switching(optimizer: Any) -> Any:
    """The optimizer itself, out of accelerate's wrapper, if it switches; else None."""
    inner = getattr(optimizer, "optimizer", optimizer)
    both = all(callable(getattr(inner, name, None)) for name in ("train", "eval"))
    return inner if both else None


@contextlib.contextmanager
def to_be_used(optimizer: Any) -> Iterator[Exact]:
    """Within it the model has the weights to be used; gives those that are trained, if others."""
    inner = switching(optimizer)
    if inner is None:
        yield []
        return
    weights = [weight for group in inner.param_groups for weight in group["params"]]
    exact = [(weight, weight.detach().clone()) for weight in weights]
    inner.eval()
    try:
        yield exact
    finally:
        inner.train()
        with torch.no_grad():
            for weight, value in exact:
                weight.copy_(value)


def write_trained(folder: Path, model: nn.Module, exact: Exact) -> None:
    """Keep the weights that are trained beside those to be used, by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    kept = {names[id(weight)]: value for weight, value in exact if id(weight) in names}
    if kept:
        torch.save(kept, folder / TRAINED)


def put_back(folder: Path, model: nn.Module, optimizer: Any) -> bool:
    """Go on with the weights that were trained when a checkpoint was written.

    Raises:
        CheckpointError: They are not this model's.
    """
    inner = switching(optimizer)
    if inner is None or not (folder / TRAINED).is_file():
        return False
    kept = torch.load(folder / TRAINED, map_location="cpu", weights_only=True)
    parameters = dict(model.named_parameters())
    if any(n not in parameters or parameters[n].shape != kept[n].shape for n in kept):
        raise CheckpointError(f"{TRAINED} is of another model", where=str(folder))
    inner.train()
    with torch.no_grad():
        for name, value in kept.items():
            parameters[name].copy_(value)
    return True
