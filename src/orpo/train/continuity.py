"""Where a run stands between two steps: random state, what was saved, whether it stops.

SIGTERM and SIGINT finish the step, or leave at once what can be done again; then the run stops.

A run that goes on with other settings takes them, not those that lie in its checkpoint.

Schedule-free optimizers (arXiv 2405.15682) train other weights than those to be used:
`optimizer.eval()` puts those to be used into the model, `optimizer.train()` those to be trained
further. The way there and back rounds, so the exact weights are put back, and kept beside a
checkpoint: a run computes the same wherever it is evaluated, saved or stopped.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import random
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl

from orpo.errors import CheckpointError
from orpo.train.checkpoints import Progress


def remember_randomness() -> Callable[[], None]:
    """Take down the state of Python's, NumPy's and torch's generators; the result restores it."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    of_torch = torch.get_rng_state()
    of_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def restore() -> None:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
        if of_cuda:
            torch.cuda.set_rng_state_all(of_cuda)

    return restore


@contextlib.contextmanager
def keep_randomness() -> Iterator[None]:
    """What is drawn within the block is as if it had not been drawn."""
    restore = remember_randomness()
    try:
        yield
    finally:
        restore()


@dataclass
class Continuity:
    """Kept by a trainer for one call of `train`."""

    # which run it is; a resumed run keeps its name
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    # what was known where the run goes on; None once it is taken up, or in a fresh run
    resumed: Progress | None = None
    # the step of the newest checkpoint that this call wrote or went on from
    committed: int | None = None
    aside: Path | None = None  # where a checkpoint is being written; None between checkpoints
    stopping: bool = False  # whether no further step is taken
    # whether that is because of a signal, to this or another rank; known at the end
    told: bool = False
    evaluate: bool = False  # whether an evaluation was cut off, and is due when the run goes on
    first: bool = False  # whether the coming step is the first of its epoch
    epoch_over: bool = False  # whether what comes at an epoch's end has begun
    uncounted: int = 0  # steps whose loss is in no mean: they were not taken
    figures: tuple[Any, Any] = (None, None)  # gradient norm and learning rate of the last step
    # lines of metrics.jsonl ahead of the summary, which a run that goes on writes anew; None until
    # the last step
    lines: int | None = None
    _restore: Callable[[], None] | None = None

    def begin_epoch(self) -> None:
        """Take down the random state ahead of an epoch's data, which draw from it."""
        self.first, self.epoch_over = True, False
        # A resumed run reads its state from the checkpoint, later on.
        self._restore = remember_randomness() if self.resumed is None else None

    def before_epoch_end(self, epoch: float | None) -> bool:
        """Whether an epoch's last step was taken, and its log and evaluation are still due."""
        whole = bool(epoch) and float(epoch or 0).is_integer()
        return whole and not self.first and not self.epoch_over

    def stop(self, control: TrainerControl) -> None:
        """End the run where it stands, as if the step that was asked for had not been begun."""
        self.stopping = control.should_training_stop = True
        if self.first and self._restore is not None:
            self._restore()


class EpochBorders(TrainerCallback):
    """Calls a function at the start of every epoch, ahead of its data, and one at its end."""

    def __init__(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        self._begin, self._end = begin, end

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:  # noqa: D102
        self._begin()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:  # noqa: D102
        self._end()


class StopRequested(BaseException):  # no `except Exception` on the way may swallow it
    """Raised out of work that can be done again, such as an evaluation, when a signal arrives."""


class StopOnSignal(TrainerCallback):
    """Turns the first signal into one checkpoint and a stop; a second one stops at once.

    As a callback it listens while training. As a context manager it listens in the whole block,
    and outside of optimizer steps it raises `StopRequested`.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._whole_block = False
        self._at_once = False
        self._process = os.getpid()
        self._at_the_end: dict[signal.Signals, Any] = {}

    @property
    def number(self) -> int:
        """The signal that arrived; 0 if none did."""
        return 0 if self.received is None else int(self.received)

    def __enter__(self) -> StopOnSignal:
        """Listen until the end of the block."""
        self._whole_block = self._at_once = True
        self._listen()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop listening."""
        self._whole_block = self._at_once = False
        self._undo()
        self.restore()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within the block a signal, also one that came before, raises `StopRequested`."""
        before, self._at_once = self._at_once, True
        try:
            if self.received is not None:
                raise StopRequested(self.received.name)
            yield
        finally:
            self._at_once = before

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Within the block a signal is noted, and raises nothing but in `at_once`."""
        before, self._at_once = self._at_once, False
        try:
            yield
        finally:
            self._at_once = before

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """From now on steps are finished before the run stops."""
        self._at_once = False
        if not self._whole_block:
            self._listen()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """From the first batch on, torch raises wherever it learns that a loader's process ended.

        A signal to the whole group ends those first, in the middle of a step. Without that, the
        step is finished; the loader itself says what is missing when the next batch is asked for.
        """
        if self._previous and threading.current_thread() is threading.main_thread():
            self._until_the_end(signal.SIGCHLD, _nothing)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop listening, or go back to stopping at once."""
        self._at_once = self._whole_block
        self._undo()
        if not self._whole_block:
            self.restore()

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread() or self._previous:
            return
        self._process = os.getpid()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A data loader's process has inherited the handler: Ctrl-C is its parent's business.
            if number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self.received = signal.Signals(number)
        ignored = self._previous.get(self.received) is signal.SIG_IGN  # as in a background job
        self.restore()  # a second signal does what it always did
        if ignored:
            self._until_the_end(self.received, signal.SIG_DFL)
        self._until_the_end(signal.SIGCHLD, _nothing)  # torch would raise in the save
        if self._at_once:
            raise StopRequested(self.received.name)

    def _until_the_end(self, number: signal.Signals, handler: Any) -> None:
        if number not in self._at_the_end:
            self._at_the_end[number] = signal.signal(number, handler)

    def _undo(self) -> None:
        _give_back(self._at_the_end)

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        _give_back(self._previous)


def _give_back(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in [*handlers.items()]:  # a signal may come in between, and clear it
        signal.signal(number, handler)
    handlers.clear()


def _nothing(number: int, frame: FrameType | None) -> None:
    """Take a signal, and go on."""


def stop_of(callbacks: list[TrainerCallback]) -> StopOnSignal | None:
    """The callback that listens for signals, if there is one."""
    return next((one for one in callbacks if isinstance(one, StopOnSignal)), None)


_OF_THE_SCHEDULE = {"params", "lr", "initial_lr"}


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
