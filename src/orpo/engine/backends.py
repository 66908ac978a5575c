"""The ways to compute attention over a packed row, and which one a device and a model get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from orpo.engine import attention_cuda
from orpo.engine.attention_dense import dense_attention, segmented_attention
from orpo.engine.attention_tiles import tiled_attention
from orpo.engine.layout import PairLayout

__all__ = ["BACKENDS", "Features", "attend", "choose_backend"]

Backend = Callable[..., Tensor]


@dataclass(frozen=True)
class Features:
    """What a layer's attention does beside softmax(Q K^T) V.

    Attributes:
        scale: Factor of the scores.
        window: Sliding window in positions, or None.
        softcap: Bound of the scores, or None.
        sinks: (H,) scores of keys without value, or None.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None

    def arguments(self) -> dict[str, Any]:
        """Those that are set, as keyword arguments of a back end."""
        return {name: value for name, value in vars(self).items() if value is not None}


BACKENDS: dict[str, Backend] = {
    "dense": dense_attention,
    "segmented": segmented_attention,
    "tiles": tiled_attention,
    "flash_attn": attention_cuda.flash_attention,
    "varlen": attention_cuda.varlen_attention,
    "flex": attention_cuda.flex_attention,
    "sdpa": attention_cuda.sdpa_attention,
}
"""Name -> attention over a packed row; all have the signature of `dense_attention`."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PairLayout,
    settings: Mapping[str, Any],
) -> Tensor:
    """One layer's attention over a packed row.

    Args:
        module: The layer's attention module.
        query: (1, H, S, D).
        key: (1, K, S, D).
        value: (1, K, S, D).
        layout: What attends to what.
        settings: What the family passes: scaling, sliding_window, softcap, s_aux, dropout, ...

    Returns:
        (1, S, H, D).

    Raises:
        ValueError: The layer asks for something that packed rows cannot give.
    """
    if query.shape[:1] + query.shape[2:3] != (1, layout.tokens):
        raise ValueError(f"attention over {tuple(query.shape)} instead of {layout.tokens} tokens")
    if settings.get("dropout"):
        raise ValueError("attention dropout would treat a shared prompt as one")
    if settings.get("is_causal", getattr(module, "is_causal", True)) is False:
        raise ValueError("a layer attends in both directions")
    scaling = settings.get("scaling")
    features = Features(
        scale=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        window=settings.get("sliding_window") or None,
        softcap=settings.get("softcap"),
        sinks=settings.get("s_aux"),
    )
    name = layout.backend or choose_backend(query, features)
    layout.calls.append(name)
    kind = query.device.type
    if torch.is_autocast_enabled(kind) and query.dtype != torch.float64:
        low = torch.get_autocast_dtype(kind)
        query, key, value = (x.to(low) for x in (query, key, value))
    with torch.autocast(kind, enabled=False):  # a back end says itself what it rounds
        return BACKENDS[name](query, key, value, layout, **features.arguments())


def choose_backend(query: Tensor, features: Features) -> str:
    """The fastest back end for a layer's inputs."""
    plain = features.softcap is None and features.sinks is None
    if query.device.type != "cuda":
        return "tiles" if plain else "segmented"
    if features.sinks is not None:
        return "segmented"
    if query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] <= 256:
        if attention_cuda.has_flash_attn():
            return "flash_attn"
        if plain and attention_cuda.has_varlen(query.device):
            return "varlen"
    if attention_cuda.has_triton():
        return "flex"
    return "sdpa" if plain else "segmented"
