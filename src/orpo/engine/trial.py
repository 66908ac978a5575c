"""Trying a model out without leaving a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

__all__ = ["on_trial", "without_checkpointing"]


@contextlib.contextmanager
def on_trial(model: nn.Module, *, training: bool = False) -> Iterator[None]:
    """All of a model in one mode; modes, buffers and random numbers are as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    model.train(training)
    try:
        with torch.random.fork_rng(sorted(devices, key=str)), _same_buffers(model):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def _same_buffers(model: nn.Module) -> Iterator[None]:
    """What a model counts while it computes, such as running means, is as before afterwards."""
    kept = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for module, name, buffer, before in kept:
            module._buffers[name] = buffer
            with torch.no_grad():
                buffer.copy_(before)


@contextlib.contextmanager
def without_checkpointing(model: nn.Module) -> Iterator[bool]:
    """Gradient checkpointing off within; whether it was on."""
    switched = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    for module in switched:
        module.gradient_checkpointing = False  # type: ignore[assignment]
    try:
        yield bool(switched)
    finally:
        for module in switched:
            module.gradient_checkpointing = True  # type: ignore[assignment]
