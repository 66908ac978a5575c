"""What the settings of a run need, tried before anything is loaded: one place, one line each.

Nothing is looked up in a table. The optimizer and the schedule are those that transformers makes,
made for a model of two weights; a tracker or the Hub is asked what the run will ask it.
Whatever they say becomes a `ConfigError` that names the setting.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset
from transformers import Trainer, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import SchedulerType, has_length

from orpo.config import ORPOConfig
from orpo.errors import ConfigError, OrpoError, did_you_mean, refuse_first
from orpo.train.metrics import PairTable, columns_of
from orpo.train.step_loss import StepLoss
from orpo.train.work import steps_in_all

_LAYERWISE = "layerwise"
_SEVERAL = "Add --nproc N, or start with torchrun or accelerate launch; or leave it out."
_TRACKERS = get_reporting_integration_callbacks.__module__
_OF_EVERY_EVALUATION = ("runtime", "samples_per_second", "steps_per_second")
"""Metrics that transformers adds."""
_UNKNOWN_LENGTH = 10**6
"""Steps of a run whose length its data will tell."""
_REFUSALS = (
    *(ValueError, TypeError, ArithmeticError, LookupError, AttributeError, AssertionError),
    *(ImportError, RuntimeError, OSError, HfHubHTTPError),
)


def foresee(args: ORPOConfig, optimizers: tuple[Any, Any] = (None, None)) -> None:
    """Try what the run will need of its surroundings."""
    alone = args.fsdp and int(os.environ.get("WORLD_SIZE") or 1) == 1
    refuse_first(
        (alone, "fsdp", "divides a model among several processes, and this is one", _SEVERAL),
    )
    if args.gradient_checkpointing:
        own = ("every_n_layers", "offload")  # of transformers
        given = {"use_reentrant": True, **(args.gradient_checkpointing_kwargs or {})}
        given = {name: value for name, value in given.items() if name not in own}
        with told("gradient_checkpointing_kwargs", "Leave it out, or give what torch takes."):
            checkpoint(nn.Linear(1, 1), torch.zeros(1, requires_grad=True), **given)
    with told("seed", "Give a number from 0 to 4294967295."):
        np.random.RandomState(args.seed)
    fix = "Set dataloader_num_workers above 0, or leave out what is for workers."
    with told("dataloader_num_workers", fix):
        DataLoader(
            TensorDataset(torch.zeros(1)),
            num_workers=args.dataloader_num_workers,
            persistent_workers=args.dataloader_persistent_workers,
            multiprocessing_context=getattr(args, "dataloader_multiprocessing_context", None),
        )
    if optimizers[0] is None:
        _try_optimizer(args)
    if optimizers[1] is None:
        _check_steps(args, args.max_steps if args.max_steps > 0 else None)
    for name in args.report_to or ():
        _try_tracker(name)
    if args.push_to_hub:  # whether the Hub is there and knows the token
        fix = "Log in (hf auth login) or set hub_token, with the network; or leave push_to_hub out."
        with told("push_to_hub", fix):
            HfApi().whoami(token=args.hub_token)


def foresee_data(
    args: ORPOConfig,
    train_dataset: Any,
    eval_dataset: Any,
    ranks: int,
    *,
    own_metrics: bool = False,
    own_schedule: bool = False,
) -> None:
    """Check what only data and settings together can tell."""
    known = train_dataset is not None and has_length(train_dataset)
    endless = train_dataset is not None and not known and args.max_steps <= 0
    long = "is needed: a streaming data set does not say how long it is"
    nothing = args.eval_strategy != "no" and eval_dataset is None
    absent = f"is {args.eval_strategy.value!r}, but there is no eval_dataset"
    refuse_first(
        (endless, "max_steps", long, "Give the number of optimizer steps."),
        (nothing, "eval_strategy", absent, "Pass eval_dataset=..., or set it to 'no'."),
    )
    if known and not own_schedule:
        _check_steps(args, steps_in_all(args, len(train_dataset), ranks))
    best = args.metric_for_best_model
    if best is not None and args.eval_strategy != "no" and not own_metrics:
        _check_metric(args, best, eval_dataset)


def _check_metric(args: ORPOConfig, best: str, eval_dataset: Any) -> None:
    """Evaluate a made-up pair, and see whether the metric is among what comes out."""
    row = np.ones((1, len(columns_of(args.objective))))
    table = PairTable.gathered(row, np.zeros(1), args.objective)
    own = [*table.metrics(StepLoss.of(args)), *_OF_EVERY_EVALUATION]
    sets = [f"{name}_" for name in eval_dataset] if isinstance(eval_dataset, dict) else [""]
    names = [f"{of}{name}" for of in sets for name in own]
    if best.removeprefix("eval_") in names:
        return
    several = " of several evaluation sets" if len(sets) > 1 or sets[0] else ""
    near = get_close_matches(best.removeprefix("eval_"), names, n=1, cutoff=0.3) or names[:1]
    what = f"{best!r} is no metric{several}; there are {', '.join(names[: len(own)])}"
    fix = f"Give one of them, such as {near[0]}."
    raise ConfigError(what, where="metric_for_best_model", fix=fix)


def _try_optimizer(args: ORPOConfig) -> None:
    """Make the optimizer for two weights, and let it take a step."""
    toy = nn.ModuleDict({"layer": nn.Linear(1, 1, device=args.device)})
    with told("optim", "Choose another optimizer, or other optim_args."):
        # Low-rank optimizers look for layers of the names that they are told.
        names = args.optim_target_modules
        for name in [names] if isinstance(names, str) else names or ():
            if name.isidentifier():
                toy.add_module(name, nn.Linear(1, 1))
        kind, given = Trainer.get_optimizer_cls_and_kwargs(args, toy)
        if not isinstance(kind, type) or _LAYERWISE in args.optim:
            return  # it looks at the whole model
        groups: Any = [{"params": list(toy.parameters()), "weight_decay": args.weight_decay}]
        for own in ("params", "model"):  # of low rank; of LOMO
            groups = given.pop(own, groups)
        optimizer = kind(groups, **given)
        if isinstance(groups, nn.Module):
            return  # it steps while gradients are computed
        for weight in toy.parameters():
            weight.grad = torch.zeros_like(weight)
        if hasattr(optimizer, "train"):  # of schedule-free ones
            optimizer.train()
        optimizer.step()


def _check_steps(args: ORPOConfig, steps: int | None) -> None:
    """Look at the learning rate of the whole run, at the steps at which its shape changes."""
    total = _UNKNOWN_LENGTH if steps is None else steps
    warmup = args.get_warmup_steps(total)
    toy = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    shape = SchedulerType(args.lr_scheduler_type).value
    length = "" if steps is None else f" of {steps} steps ({warmup} of warm-up)"
    with told("lr_scheduler_type", "See lr_scheduler_kwargs and warmup_steps.", shape + length):
        schedule = get_scheduler(
            args.lr_scheduler_type,
            optimizer=toy,
            num_warmup_steps=warmup,
            num_training_steps=total,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,
        )
        if not isinstance(schedule, LambdaLR):  # it follows evaluations
            return
        near = {0, 1, warmup - 1, warmup, warmup + 1, total // 2, total - 1, total}
        for step in sorted(s for s in near if 0 <= s <= total):
            for factor in schedule.lr_lambdas:
                if not 0 <= factor(step) < float("inf"):
                    raise ValueError(f"the learning rate is {factor(step)} times its maximum")


def _try_tracker(name: str) -> None:
    """Make the tracker; one that is half made complains once more when it is thrown away."""
    said, before = "", sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        (kind,) = get_reporting_integration_callbacks([name])
        kind()
    except _REFUSALS as error:
        said = _first_lines(error)
    finally:
        sys.unraisablehook = before
    if said:
        what = f"{name} cannot be used ({said})"
        fix = "Install what it needs, or leave it out (none: nothing is reported)."
        fix = did_you_mean(name, INTEGRATION_TO_CALLBACK) or fix
        raise ConfigError(what, where="report_to", fix=fix)


@contextlib.contextmanager
def as_settings() -> Iterator[None]:
    """What transformers refuses in its constructor is told in one line."""
    try:
        yield
    except OrpoError:
        raise
    except (HfHubHTTPError, OfflineModeIsEnabled) as error:
        raise ConfigError(_first_lines(error), where="push_to_hub") from error
    except _REFUSALS as error:
        if not _modules(error)[-1].startswith(("transformers.", "accelerate.")):
            raise
        raise ConfigError(_first_lines(error)) from error


@contextlib.contextmanager
def of_trackers(begun: Callable[[], bool]) -> Iterator[None]:
    """An error of one of transformers' trackers, as long as nothing has begun, is one line."""
    try:
        yield
    except Exception as error:
        if begun() or _TRACKERS not in _modules(error):
            raise
        said = f"a tracker cannot begin ({_first_lines(error)})"
        raise ConfigError(said, where="report_to", fix="Log in to it, or leave it out.") from error


@contextlib.contextmanager
def told(where: str, fix: str, about: str = "") -> Iterator[None]:
    """Whatever is raised inside becomes a `ConfigError` about one setting."""
    try:
        yield
    except (ConfigError, torch.OutOfMemoryError):
        raise
    except _REFUSALS as error:
        said = f"{about}: {_first_lines(error)}" if about else _first_lines(error)
        raise ConfigError(said, where=where, fix=fix) from error


def _modules(error: BaseException) -> list[str]:
    """Modules that an error has gone through, the one that raised it last."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return [str(frame.f_globals.get("__name__")) for frame in frames]


def _first_lines(error: BaseException) -> str:
    """What an error says, on one line that can be read; its kind where it says little."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else f"{text[:297]}..."
    bare = not isinstance(error, ValueError | ImportError | RuntimeError | OSError)
    return (f"{type(error).__name__}: {text}" if bare or not text else text).rstrip(".: ")
