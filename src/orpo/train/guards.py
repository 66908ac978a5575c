"""What stops a run before it is spoilt."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from orpo.errors import NonFiniteError

__all__ = ["NonFiniteGuard"]

_FIX = "Lower learning_rate, check these rows, or use bf16 or fp32 instead of fp16."


class NonFiniteGuard(TrainerCallback):
    """Raises before an optimizer step whose loss or gradient is not finite; names step and rows.

    It looks once per optimizer step, at numbers that stay on the device until then.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._rows: list[Tensor] = []

    def watch(self, loss: Tensor, rows: Tensor) -> None:
        """Remember a micro-batch of the coming optimizer step.

        Args:
            loss: Its loss, a scalar.
            rows: Indices of its rows in the data set, shape (pairs,).
        """
        self._losses.append(loss.detach())
        self._rows.append(rows)

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: object,
    ) -> None:
        """Check the losses and gradients of the step that is about to be taken."""
        losses, rows = self._losses, self._rows
        self._losses, self._rows = [], []
        if args.fp16:
            return  # the gradient scaler skips overflowing steps by design
        step = state.global_step + 1
        if losses and not bool(torch.stack(losses).isfinite().all()):
            bad = [r for loss, r in zip(losses, rows, strict=True) if not bool(loss.isfinite())]
            raise NonFiniteError(_message("the loss", step, bad))
        gradients = [p.grad for p in model.parameters() if p.grad is not None] if model else []
        if gradients and not _all_finite(gradients):
            raise NonFiniteError(_message("a gradient", step, rows))


def _all_finite(gradients: list[Tensor]) -> bool:
    norms = torch._foreach_norm(gradients, float("inf"))
    return bool(torch.stack([n.float() for n in norms]).isfinite().all())


def _message(what: str, step: int, rows: list[Tensor]) -> str:
    numbers = sorted({int(row) for tensor in rows for row in tensor})
    listed = ", ".join(map(str, numbers[:16])) + (" …" if len(numbers) > 16 else "")
    return (
        f"{what} is not finite at optimizer step {step} "
        f"(rows {listed or 'unknown'}); the step was not taken. {_FIX}"
    )
