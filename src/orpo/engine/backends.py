"""The ways to compute attention over a packed row, and which one a device and a model get."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from orpo.engine import attention_cuda
from orpo.engine.attention_cpu import dense_attention, segmented_attention, tiled_attention
from orpo.engine.layout import PairLayout

Backend = Callable[..., Tensor]

KERNELS = frozenset({"flash_attn", "varlen", "flex"})
"""Back ends that others' kernels compute, which have to be tried before they are trusted."""


@dataclass(frozen=True)
class Features:
    """What a layer's attention does beside softmax(Q K^T) V."""

    scale: float  # factor of the scores
    window: int | None = None  # sliding window in positions, or None
    softcap: float | None = None  # bound of the scores, or None
    sinks: Tensor | None = None  # (H,) scores of keys without value, or None

    def arguments(self) -> dict[str, Any]:
        """Those that are set, as keyword arguments of a back end."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class AttentionCall:
    """What a layer asked of its attention."""

    backend: str  # the back end that it got
    heads: int  # H
    key_heads: int  # K
    width: int  # D of queries and keys
    value_width: int  # D of values
    dtype: torch.dtype  # of what is multiplied
    scale: float  # see `Features`
    window: int | None = None  # see `Features`
    softcap: float | None = None  # see `Features`
    sinks: bool = False  # whether there are any


_WATCHED: ContextVar[set[AttentionCall] | None] = ContextVar("orpo_watched", default=None)

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
    """One layer's attention over a packed row, (1, S, H, D).

    `query` is (1, H, S, D), `key` and `value` (1, K, S, D); `settings` are what the family passes:
    scaling, sliding_window, softcap, s_aux, dropout, ... A ValueError if the layer asks for
    something that packed rows cannot give.
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
    kind = query.device.type
    if torch.is_autocast_enabled(kind) and query.dtype != torch.float64:
        # Rotary positions have made float32 of what is multiplied in half precision.
        low = torch.get_autocast_dtype(kind)
        query, key, value = (x.to(low) for x in (query, key, value))
    name = layout.backend or choose_backend(query, features, layout.avoid)
    if (watched := _WATCHED.get()) is not None:
        watched.add(_call(name, query, key, value, features))
    with torch.autocast(kind, enabled=False):  # a back end says itself what it rounds
        return BACKENDS[name](query, key, value, layout, **features.arguments())


def _call(
    backend: str, query: Tensor, key: Tensor, value: Tensor, features: Features
) -> AttentionCall:
    return AttentionCall(
        backend,
        *(query.shape[1], key.shape[1], query.shape[-1], value.shape[-1]),
        query.dtype,
        features.scale,
        features.window,
        features.softcap,
        features.sinks is not None,
    )


@contextlib.contextmanager
def watched_attention() -> Iterator[set[AttentionCall]]:
    """Gathers what layers ask of their attention within it."""
    found: set[AttentionCall] = set()
    token = _WATCHED.set(found)
    try:
        yield found
    finally:
        _WATCHED.reset(token)


def choose_backend(query: Tensor, features: Features, avoid: frozenset[str] = frozenset()) -> str:
    """The fastest back end for a layer's inputs; of those to avoid only if nothing else is left."""
    names = candidates(query, features)
    return next((name for name in names if name not in avoid), names[-1])


def candidates(query: Tensor, features: Features) -> list[str]:
    """The back ends that can take a layer's inputs, the fastest first."""
    plain = features.softcap is None and features.sinks is None
    if query.device.type != "cuda":
        return ["tiles"] if plain else ["segmented"]
    half = query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] <= 256
    found = {
        "flash_attn": half and features.sinks is None and attention_cuda.has_flash_attn(),
        "varlen": half and plain and attention_cuda.has_varlen(query.device),
        "flex": features.sinks is None and attention_cuda.has_triton(),
        "sdpa": plain,
        "segmented": True,
    }
    return [name for name, able in found.items() if able]


def kernels_of(device: torch.device) -> frozenset[str]:
    """Those of `KERNELS` that may run on a device."""
    return KERNELS if device.type == "cuda" else frozenset()
