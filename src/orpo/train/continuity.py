"""Where a run stands between two steps: random state, what was saved, whether it stops."""

from __future__ import annotations

import contextlib
import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl

from orpo.train.checkpoints import Progress
from orpo.train.signals import StopOnSignal


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


def stop_of(callbacks: list[TrainerCallback]) -> StopOnSignal | None:
    """The callback that listens for signals, if there is one."""
    return next((one for one in callbacks if isinstance(one, StopOnSignal)), None)
