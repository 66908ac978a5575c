"""What stops a run before it is spoilt."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from orpo.errors import ConfigError, NonFiniteError

__all__ = ["NonFiniteGuard", "require_checkpoint"]

_FIX = "Lower learning_rate, check these rows, or use bf16 or fp32 instead of fp16."


class NonFiniteGuard(TrainerCallback):
    """Raises before an optimizer step whose loss or gradient is not finite; names step and rows.

    It looks once per optimizer step, at numbers that stay on the device until then.
    """

    def __init__(self) -> None:
        self._tables: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._norm: Tensor | float | None = None

    def watch_norm(self, norm: Tensor | float | None) -> None:
        """Take note of the norm of the coming step's gradients, if it was computed anyway."""
        self._norm = norm

    def watch(self, table: Tensor, rows: Tensor) -> None:
        """Remember a micro-batch of the coming optimizer step.

        Args:
            table: What its loss is made of, one row per pair, shape (pairs, columns).
            rows: Indices of its rows in the data set, shape (pairs,).
        """
        self._tables.append(table)
        self._rows.append(rows)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Forget the micro-batches of a step that was never finished."""
        self._tables, self._rows, self._norm = [], [], None

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: object,
    ) -> None:
        """Check the losses and gradients of the step that is about to be taken."""
        tables, rows, norm = self._tables, self._rows, self._norm
        self._tables, self._rows, self._norm = [], [], None
        step = state.global_step + 1
        if tables:
            finite = torch.cat(tables).isfinite().all(dim=1)
            if not bool(finite.all()):
                raise NonFiniteError(_message("the loss", step, torch.cat(rows)[~finite]))
        if args.fp16:
            return  # the gradient scaler skips overflowing steps by design
        if norm is not None and math.isfinite(norm):
            return
        parameters = [] if model is None else list(model.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        if gradients and not _all_finite(gradients):
            every = torch.cat(rows) if rows else torch.empty(0)
            raise NonFiniteError(_message("a gradient", step, every))


def _all_finite(gradients: list[Tensor]) -> bool:
    # A sharded gradient is looked at where it lies; some ranks hold nothing of a small one.
    parts = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
    norms = torch._foreach_norm([part for part in parts if part.numel()], float("inf"))
    if not norms:
        return True
    device = norms[0].device  # a model may be spread over several
    return bool(torch.stack([n.float().to(device) for n in norms]).isfinite().all())


def _message(what: str, step: int, rows: Tensor) -> str:
    numbers = sorted({int(row) for row in rows})
    listed = ", ".join(map(str, numbers[:16])) + (" …" if len(numbers) > 16 else "")
    return (
        f"{what} is not finite at optimizer step {step} "
        f"(rows {listed or 'unknown'}); the step was not taken. {_FIX}"
    )


def require_checkpoint(asked: str | bool, args: TrainingArguments) -> None:
    """Check that there is a checkpoint where `resume_from_checkpoint` looks for one.

    Raises:
        ConfigError: There is none.
    """
    folder = str(args.output_dir if asked is True else asked)
    if not Path(folder).is_dir() or (asked is True and get_last_checkpoint(folder) is None):
        raise ConfigError(
            "there is no checkpoint to go on from",
            where=folder,
            fix="Leave resume_from_checkpoint out to start afresh.",
        )
