"""How many steps a run has, and what becomes of its schedule when it goes on.

A run that goes on with other settings takes them, not those that lie in its checkpoint.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainingArguments

__all__ = ["follow", "settings_of", "steps_in_all", "steps_per_epoch"]

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

    Args:
        optimizer: Its moments stay.
        scheduler: Its count of steps stays.
        settings: Of `settings_of`, ahead of loading.
        bases: The schedule's maxima, ahead of loading.
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
