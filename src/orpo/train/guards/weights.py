"""What is loaded and what is committed is finite: a look at the weights, in one pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from orpo.errors import ModelError

__all__ = ["ensure_sound", "name_some", "spoilt_weights"]

_CHECKED = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_NAMED = 5


def spoilt_weights(model: nn.Module) -> list[str]:
    """Names of the trained weights that are not finite, of those that lie on this rank."""
    return _not_finite((n, p.detach()) for n, p in model.named_parameters() if p.requires_grad)


def ensure_sound(model: nn.Module, where: str) -> None:
    """Refuse a model with weights that are not finite, trained or not, whether a row meets them.

    Args:
        model: As it was loaded, before it is wrapped.
        where: Where it came from.

    Raises:
        ModelError: Names the weights.
    """
    stored = {name: weight.detach() for name, weight in model.named_parameters()}
    kept = model.state_dict(keep_vars=True)
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in kept]
    names = _not_finite(stored.items())
    names += [name for name, buffer in buffers if _checked(buffer) and bool(buffer.isnan().any())]
    if names:
        raise ModelError(
            f"{len(names)} of its weights are not finite: {name_some(names)}",
            where=where,
            fix="The files are damaged, or the training that wrote them had gone wrong.",
        )
    get = getattr(cast(Any, model), "get_input_embeddings", None)
    table = getattr(get() if get else None, "weight", None)
    if isinstance(table, Tensor) and _checked(table) and not bool(table.detach().any()):
        raise ModelError("its embedding is all zero", where=where, fix="The files are damaged.")


def name_some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _not_finite(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    pieces = [(name, w.to_local() if isinstance(w, DTensor) else w) for name, w in named]
    local = [(name, weight) for name, weight in pieces if _checked(weight)]
    if not local:
        return []
    norms: list[Tensor] = list(torch._foreach_norm([weight for _, weight in local], 2))
    # A norm may overflow where no entry does, so that suspects are looked at one by one.
    suspects = [one for one, norm in zip(local, norms, strict=True) if not bool(norm.isfinite())]
    return [name for name, weight in suspects if not bool(weight.isfinite().all())]


def _checked(weight: Tensor) -> bool:
    return weight.dtype in _CHECKED and not weight.is_meta and weight.numel() > 0
