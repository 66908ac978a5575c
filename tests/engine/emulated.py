"""Plain torch in the place of the kernels that need a GPU: what their documentation promises."""

import functools
import inspect
import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from orpo.engine import backends
from orpo.engine.backends import Backend


def flash(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window: tuple[int, int],
    softcap: float = 0.0,
) -> Tensor:
    """What the kernels promise: sequence by sequence, the mask aligned to the bottom right."""
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert (int(cu_q.diff().max()), int(cu_k.diff().max())) == (max_q, max_k)
    assert (int(cu_q[-1]), int(cu_k[-1])) == (len(q), len(k))
    parts = []
    for i in range(len(cu_q) - 1):
        own_q, own_k = q[cu_q[i] : cu_q[i + 1]], k[cu_k[i] : cu_k[i + 1]]
        own_v = v[cu_k[i] : cu_k[i + 1]]
        repeated = [x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (own_k, own_v)]
        scores = torch.einsum("qhd,khd->hqk", own_q, repeated[0]) * scale
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        ahead = torch.arange(len(own_k)) - torch.arange(len(own_q))[:, None]
        ahead = ahead - (len(own_k) - len(own_q))  # of the key, before the query's own place
        seen = (ahead <= window[1]) if window[1] >= 0 else torch.ones_like(ahead).bool()
        if window[0] >= 0:
            seen &= ahead >= -window[0]
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        parts.append(torch.einsum("hqk,khd->qhd", weights, repeated[1]))
    return torch.cat(parts)


def fake_flash_attn(  # noqa: PLR0917
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
) -> Tensor:
    assert causal
    assert dropout_p == 0
    assert softmax_scale is not None
    window = (window_size[0], 0)
    ends = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    return flash(q, k, v, *ends, scale=softmax_scale, window=window, softcap=softcap)


def fake_varlen_attn(*args: Any, **kwargs: Any) -> Tensor:
    bound = SIGNATURE.bind(*args, **kwargs)
    bound.apply_defaults()
    named = bound.arguments
    assert named["enable_gqa"] == (named["query"].shape[1] != named["key"].shape[1])
    return flash(*args, scale=named["scale"], window=named["window_size"])


SIGNATURE = inspect.signature(varlen.varlen_attn)


def emulate_kernels(patch: pytest.MonkeyPatch) -> None:
    """Both packages' functions are those of this module."""
    package = types.ModuleType("flash_attn")
    package.flash_attn_varlen_func = fake_flash_attn  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "flash_attn", package)
    patch.setattr(varlen, "varlen_attn", fake_varlen_attn)


# What a back end may get wrong


def break_(patch: pytest.MonkeyPatch, name: str, wrong: Backend) -> None:
    """Put a mistake, which is given the right back end, in the place of it."""
    patch.setitem(backends.BACKENDS, name, functools.partial(wrong, backends.BACKENDS[name]))


def without(feature: str) -> Backend:
    return lambda right, *args, **asked: right(
        *args, **{name: value for name, value in asked.items() if name != feature}
    )


def window_off_by(count: int) -> Backend:
    return lambda right, *args, window, **asked: right(*args, window=window + count, **asked)


def no_gradient(of: int) -> Backend:
    return lambda right, *args, **asked: right(
        *(x.detach() + 0 * x if i == of else x for i, x in enumerate(args)), **asked
    )
