"""What is done to a model for the time of its training, and undone afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import nn

from orpo.engine import (
    Engine,
    compile_blocks,
    compile_head,
    keep_freed_memory,
    share_casts,
    uncompile_blocks,
)

__all__ = ["speed_up"]


class _Trained(Protocol):
    """A trainer's model and engine."""

    model: nn.Module
    engine: Engine


def speed_up(trainer: _Trained, *, compiled: bool) -> Callable[[], None]:
    """Share casts, keep freed memory; compile blocks and the engine's head, if so decided.

    Returns:
        A function that leaves model and engine as they were.
    """
    model, engine = trainer.model, trainer.engine
    cast_again = share_casts(model)
    give_back = keep_freed_memory(next(model.parameters()).device.type)
    if compiled:
        compile_blocks(model)
        trainer.engine = compile_head(engine)

    def undo() -> None:
        cast_again()
        if compiled:
            uncompile_blocks(model)
        trainer.engine = engine
        give_back()

    return undo
