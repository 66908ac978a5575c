"""From logits to log-probabilities of what a batch asks for. The naive head: the oracle.

It keeps all logits; `fused_head` gives the same numbers and gradients without keeping any.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from orpo.engine.layout import Predictions
from orpo.objective import PairLogps
from orpo.objective.log_odds import compute_dtype

__all__ = ["as_pair_logps", "count_pairs", "sum_dtype", "sum_pairs", "token_logps"]


def token_logps(logits: Tensor, predictions: Predictions) -> Tensor:
    """log p(token | tokens before it) of everything that is asked for.

    Args:
        logits: (..., V), any float dtype; `predictions.source` indexes all but the last dimension,
            flattened.
        predictions: What is asked for.

    Returns:
        (U,), float32 (float64 for float64 logits).
    """
    scored = logits.flatten(0, -2)[predictions.source].to(compute_dtype(logits))
    return -F.cross_entropy(scored, predictions.target, reduction="none")


def sum_pairs(logps: Tensor, predictions: Predictions) -> PairLogps:
    """The sums over answers and over the text of the NLL, with gradient.

    Args:
        logps: (U,), log-probabilities of the predictions.
        predictions: What they are counted for.
    """
    dtype = sum_dtype(logps)
    counted = logps.to(dtype)[:, None] * predictions.member
    sums = counted.new_zeros(predictions.pairs, 3)
    sums = sums.index_add(0, predictions.pair_index(), counted)
    return as_pair_logps(sums, count_pairs(predictions), predictions.given)


def count_pairs(predictions: Predictions) -> Tensor:
    """(B, 3) int64: tokens of the chosen answer, the rejected answer and the NLL."""
    member = predictions.member.long()
    return member.new_zeros(predictions.pairs, 3).index_add(0, predictions.pair_index(), member)


def as_pair_logps(
    sums: Tensor, counts: Tensor, given: Mapping[str, Tensor] | None = None
) -> PairLogps:
    """Name the columns of two (B, 3) tensors, and add what `Predictions.given` holds."""
    return PairLogps(
        chosen_sum=sums[:, 0],
        chosen_tokens=counts[:, 0],
        rejected_sum=sums[:, 1],
        rejected_tokens=counts[:, 1],
        nll_sum=-sums[:, 2],
        nll_tokens=counts[:, 2],
        **(given or {}),
    )


def sum_dtype(tensor: Tensor) -> torch.dtype:
    """Float64 where the device has it: sums over long answers then cost no accuracy."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64
