"""Seconds of optimizer steps, when the device has done what it was told."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import TrainerCallback


def now() -> float:
    """A clock's seconds once the accelerator, if there is one, has nothing left to do."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


class StepClock(TrainerCallback):
    """When each optimizer step began and ended, in seconds of `now`."""

    def __init__(self) -> None:
        self.began: list[float] = []
        self.ended: list[float] = []

    @property
    def seconds(self) -> list[float]:
        """Of each step: forward, backward and optimizer, without the data before it."""
        return [end - begin for begin, end in zip(self.began, self.ended, strict=False)]

    def period(self) -> float:
        """Mean seconds from a step's end to the next one's; the first step, a slow one, is out."""
        return (self.ended[-1] - self.ended[0]) / (len(self.ended) - 1)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step begins."""
        self.began.append(now())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step was taken."""
        self.ended.append(now())
