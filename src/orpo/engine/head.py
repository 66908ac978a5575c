"""From logits to log-probabilities of the tokens that are predicted. The naive head: the oracle."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from orpo.objective.log_odds import compute_dtype

__all__ = ["sum_dtype", "token_logps"]


def token_logps(logits: Tensor, input_ids: Tensor, predicted: Tensor) -> Tensor:
    """log p(token | tokens before it) where it is asked for.

    Args:
        logits: (S, L, V), any float dtype.
        input_ids: (S, L) int64.
        predicted: (S, L) bool; True where the token at that position is scored. Position 0 has
            nothing before it and must be False.

    Returns:
        (S, L), float32 (float64 for float64 logits), zero where nothing was asked for.
    """
    asked = predicted[:, 1:]
    scored = logits[:, :-1][asked].to(compute_dtype(logits))
    values = -F.cross_entropy(scored, input_ids[:, 1:][asked], reduction="none")
    result = torch.zeros(predicted.shape, dtype=values.dtype, device=values.device)
    return result.masked_scatter(predicted, values)


def sum_dtype(tensor: Tensor) -> torch.dtype:
    """Float64 where the device has it: sums over long answers then cost no accuracy."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64
