"""Trying a model out without leaving a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

__all__ = ["on_trial"]


@contextlib.contextmanager
def on_trial(model: nn.Module, *, training: bool = False) -> Iterator[None]:
    """All of a model in one mode; modes and random numbers are as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    model.train(training)
    try:
        with torch.random.fork_rng(sorted(devices, key=str)):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
