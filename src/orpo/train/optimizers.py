"""Steps of a run, its schedule when it goes on, and optimizers that switch the weights.

A run that goes on with other settings takes them, not those that lie in its checkpoint.

Schedule-free optimizers (arXiv 2405.15682) train other weights than those to be used:
`optimizer.eval()` puts those to be used into the model, `optimizer.train()` those to be trained
further. The way there and back rounds, so the exact weights are put back, and kept beside a
checkpoint: a run computes the same wherever it is evaluated, saved or stopped.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainingArguments

from orpo.errors import CheckpointError

_OF_THE_SCHEDULE = {"params", "lr", "initial_lr"}


def steps_in_all(args: TrainingArguments, pairs: int, ranks: int) -> int:
    """Optimizer steps of a run over so many pairs."""
    an_epoch = steps_per_epoch(args, pairs, ranks)
    by_epochs = math.ceil(args.num_train_epochs * an_epoch)
    return int(args.max_steps) if args.max_steps > 0 else by_epochs


def steps_per_epoch(args: TrainingArguments, pairs: int, ranks: int) -> int:
    """As transformers counts them: batches of every rank, then accumulated."""
    batch = args.per_device_train_batch_size * ranks
    batches = pairs // batch if args.dataloader_drop_last else math.ceil(pairs / batch)
    steps: int = math.ceil(batches / args.gradient_accumulation_steps)
    return max(1, steps)


def settings_of(optimizer: Any) -> list[dict[str, Any]]:
    """What each group of parameters was told, such as weight decay; without the parameters."""
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


def follow(
    optimizer: Any, scheduler: Any, settings: list[dict[str, Any]], bases: list[float]
) -> None:
    """Apply settings to an optimizer and a schedule whose states were loaded.

    Where nothing has changed nothing changes, to the bit: the learning rate is the same product.
    """
    # Schedule-free and adaptive optimizers count and sum in their groups: only settings are given.
    inner = getattr(optimizer, "optimizer", optimizer)  # out of accelerate's wrapper
    given = inspect.signature(type(inner)).parameters.keys() - _OF_THE_SCHEDULE
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update({k: v for k, v in own.items() if k in given})
    if not isinstance(scheduler, LambdaLR):  # such as one that follows the evaluations
        return
    scheduler.base_lrs = list(bases)
    step = scheduler.last_epoch
    for group, base, shape in zip(optimizer.param_groups, bases, scheduler.lr_lambdas, strict=True):
        group["initial_lr"] = base
        group["lr"] = base * shape(step)
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]


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
    """Go on with the weights that were trained when a checkpoint was written."""
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
