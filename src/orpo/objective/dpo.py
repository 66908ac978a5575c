"""Direct Preference Optimization (Rafailov et al., arXiv 2305.18290, eq. 7), sigmoid form."""

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from orpo.objective.log_odds import compute_dtype
from orpo.objective.types import require_pairs


@dataclass(frozen=True)
class DPOLoss:
    """The DPO loss of one batch.

    Attributes:
        loss: mean_i -log sigmoid(beta * margin_i), scalar, carries the gradient.
        margins: (log pi/pi_ref)(y_w) - (log pi/pi_ref)(y_l), shape (pairs,).
        log_sigmoid: log sigmoid(beta * margin_i), shape (pairs,).
        chosen_rewards: beta * (log pi/pi_ref)(y_w), shape (pairs,), without gradient.
        rejected_rewards: beta * (log pi/pi_ref)(y_l), shape (pairs,), without gradient.
    """

    loss: Tensor
    margins: Tensor
    log_sigmoid: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


def dpo_loss(
    chosen_sums: Tensor,
    rejected_sums: Tensor,
    reference_chosen_sums: Tensor,
    reference_rejected_sums: Tensor,
    *,
    beta: float = 0.1,
) -> DPOLoss:
    """DPO from summed log-probabilities; the reference's are computed once, before training.

    Args:
        chosen_sums: log pi(y_w|x), summed over the answer's tokens, shape (pairs,).
        rejected_sums: log pi(y_l|x), shape (pairs,).
        reference_chosen_sums: log pi_ref(y_w|x), shape (pairs,).
        reference_rejected_sums: log pi_ref(y_l|x), shape (pairs,).
        beta: Strength of the implicit KL constraint.

    Raises:
        ValueError: The four inputs do not have one common shape (pairs,).
    """
    require_pairs(chosen_sums, rejected_sums, reference_chosen_sums, reference_rejected_sums)
    dtype = compute_dtype(chosen_sums)
    chosen_ratio = chosen_sums.to(dtype) - reference_chosen_sums.to(dtype)
    rejected_ratio = rejected_sums.to(dtype) - reference_rejected_sums.to(dtype)
    margins = chosen_ratio - rejected_ratio
    log_sigmoid = F.logsigmoid(beta * margins)
    return DPOLoss(
        loss=-log_sigmoid.mean(),
        margins=margins,
        log_sigmoid=log_sigmoid,
        chosen_rewards=beta * chosen_ratio.detach(),
        rejected_rewards=beta * rejected_ratio.detach(),
    )
