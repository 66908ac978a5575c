"""What is committed is finite: a look at the weights before every save."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

__all__ = ["spoilt_weights"]


def spoilt_weights(model: nn.Module) -> list[str]:
    """Names of the trained weights that are not finite, of those that lie on this rank."""
    named = [(name, p.detach()) for name, p in model.named_parameters() if p.requires_grad]
    local = [(name, w.to_local() if isinstance(w, DTensor) else w) for name, w in named]
    local = [(name, weight) for name, weight in local if weight.numel()]
    if not local:
        return []
    norms: list[Tensor] = list(torch._foreach_norm([weight for _, weight in local], 2))
    # A norm may overflow where no entry does, so that suspects are looked at one by one.
    suspects = [one for one, norm in zip(local, norms, strict=True) if not bool(norm.isfinite())]
    return [name for name, weight in suspects if not bool(weight.isfinite().all())]
