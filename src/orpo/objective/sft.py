"""Supervised fine-tuning on the chosen answers alone: ORPO with alpha = 0."""

from dataclasses import dataclass

from torch import Tensor

from orpo.objective.log_odds import compute_dtype
from orpo.objective.types import require_pairs


@dataclass(frozen=True)
class SFTLoss:
    """The SFT loss of one batch.

    Attributes:
        loss: The mean of `nll`, scalar, carries the gradient.
        nll_loss: The same number, under the name that all objectives share.
    """

    loss: Tensor
    nll_loss: Tensor


def sft_loss(nll: Tensor) -> SFTLoss:
    """Mean negative log-likelihood of the chosen text.

    Args:
        nll: One value per pair, shape (pairs,), normalised as in `orpo_loss`.

    Raises:
        ValueError: The shape is not (pairs,).
    """
    require_pairs(nll)
    loss = nll.to(compute_dtype(nll)).mean()
    return SFTLoss(loss=loss, nll_loss=loss)
