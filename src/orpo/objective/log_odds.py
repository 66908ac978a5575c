"""The log-odds of an answer, numerically safe for every length-averaged log-probability.

With a = l(y) <= 0 the length-averaged log-probability, P = e^a and (eq. 4 of arXiv 2403.07691)

    logit(y) = log(P / (1 - P)) = a - log1mexp(a),      log1mexp(a) = log(1 - e^a),
    d logit / da = 1 / (1 - e^a).

Automatic differentiation through a `torch.where` of two branches gives NaN near a = 0 (an
infinity from the branch that was not taken, times zero), so the derivative is written down.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

RESOLUTION = 2.0**-23
"""Log-probabilities closer to zero than this are rounding of float32 around probability one."""


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Float32 for every narrower dtype, float64 for float64."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def log1mexp(a: Tensor) -> Tensor:
    """log(1 - e^a) for a < 0, accurate at both ends (Maechler 2012, switch at -log 2).

    Args:
        a: Strictly negative floats, any shape.

    Returns:
        The same shape and dtype; no gradient should be taken through it, see `log_odds`.
    """
    near_zero = torch.log(-torch.expm1(a))
    far = torch.log1p(-torch.exp(a))
    return torch.where(a > -math.log(2.0), near_zero, far)


class _LogOdds(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        return a - log1mexp(a)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return -grad / torch.expm1(a)


class _ClampBelowZero(torch.autograd.Function):
    """min(a, -RESOLUTION) with the gradient of the identity: a certain answer can be left."""

    @staticmethod
    def forward(ctx: FunctionCtx, a: Tensor) -> Tensor:  # noqa: ARG004
        return a.clamp(max=-RESOLUTION)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:  # noqa: ARG004
        return grad


def log_odds(logps: Tensor) -> Tensor:
    """logit(y) = l(y) - log(1 - e^l(y)), eq. 4 of the paper in logarithms.

    Args:
        logps: Length-averaged log-probabilities, shape (pairs,), any float dtype, in (-inf, 0].
            Values above -RESOLUTION count as -RESOLUTION.

    Returns:
        Log-odds, shape (pairs,), float32 (float64 for float64 input). Value and gradient are
        finite for every l in [-1e4, 0].
    """
    a: Tensor = _ClampBelowZero.apply(logps.to(compute_dtype(logps)))  # type: ignore[no-untyped-call]
    odds: Tensor = _LogOdds.apply(a)  # type: ignore[no-untyped-call]
    return odds
