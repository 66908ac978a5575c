"""Fusing element-wise work with `torch.compile`, block by block, where a run is long enough.

Whole models are not compiled: packed rows change their shape with every micro-batch, and nearly all
that there is to gain lies in norms and gated MLPs, which are compiled once for all layers.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from orpo.engine.apart import ApartEngine
from orpo.engine.linear import is_linear
from orpo.engine.padded import PaddedEngine
from orpo.engine.shared import SharedEngine
from orpo.engine.types import Engine

__all__ = ["can_compile", "compile_blocks", "compile_head", "pays", "uncompile_blocks"]

_PAYS = 1e14
"""Floating point operations of a run above which compiling (some ten seconds) is repaid."""


def pays(operations: float) -> bool:
    """Whether a run of so many floating point operations is worth compiling for."""
    return operations >= _PAYS


@functools.cache
def can_compile(device: str) -> bool:
    """Whether the compiler works here, tried out on a trifle."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x = torch.ones(8, device=device)
            return bool((torch.compile(_trifle, dynamic=True)(x) == 2).all())
    except Exception:
        return False


def _trifle(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def compile_blocks(model: nn.Module) -> int:
    """Compile the norms and gated MLPs of a model in place; how many."""
    blocks = list(_blocks(model))
    for block in blocks:
        block.compile(dynamic=True)
    return len(blocks)


def compile_head(engine: Engine) -> Engine:
    """The same engine, what its head computes element by element compiled."""
    if isinstance(engine, ApartEngine):
        return replace(engine, inner=compile_head(engine.inner))
    if engine.head is None or not isinstance(engine, SharedEngine | PaddedEngine):
        return engine
    return replace(engine, head=replace(engine.head, compiled=True))


def uncompile_blocks(model: nn.Module) -> None:
    """Undo `compile_blocks`."""
    for block in _blocks(model):
        block._compiled_call_impl = None


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") or _is_gated_mlp(module):
            yield module


def _is_gated_mlp(module: nn.Module) -> bool:
    linear = [getattr(module, f"{name}_proj", None) for name in ("gate", "up", "down")]
    return all(is_linear(layer) for layer in linear)
