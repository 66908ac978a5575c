"""The ORPO objective (Hong, Lee, Thorne, arXiv 2403.07691, eqs. 3-8)."""

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from orpo.objective.log_odds import compute_dtype, log_odds
from orpo.objective.types import require_pairs


@dataclass(frozen=True)
class ORPOLoss:
    """The loss of one batch and the quantities it is made of.

    Attributes:
        loss: L = L_NLL + alpha * L_OR (eq. 6), scalar, carries the gradient.
        nll_loss: L_NLL, the mean of `nll`, scalar.
        odds_ratio_loss: L_OR = mean_i -log sigmoid(beta * z_i) (eq. 7), scalar.
        log_odds: z_i = logit(y_w) - logit(y_l), shape (pairs,).
        chosen_log_odds: logit(y_w), shape (pairs,).
        rejected_log_odds: logit(y_l), shape (pairs,).
        log_odds_ratio: log sigmoid(beta * z_i), shape (pairs,); the metric of the same name.
        chosen_rewards: alpha * beta * l(y_w), shape (pairs,), without gradient.
        rejected_rewards: alpha * beta * l(y_l), shape (pairs,), without gradient.
    """

    loss: Tensor
    nll_loss: Tensor
    odds_ratio_loss: Tensor
    log_odds: Tensor
    chosen_log_odds: Tensor
    rejected_log_odds: Tensor
    log_odds_ratio: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


def orpo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    nll: Tensor,
    *,
    alpha: float = 0.1,
    beta: float = 1.0,
) -> ORPOLoss:
    """ORPO in its stable form; `reference.orpo_loss` is the same, equation by equation.

    Args:
        chosen_logps: l(y_w), length-averaged log-probabilities, shape (pairs,), in (-inf, 0].
        rejected_logps: l(y_l), shape (pairs,).
        nll: Negative log-likelihood of each pair's chosen text, shape (pairs,); its mean is
            L_NLL. For a token mean over a step of T tokens and N pairs, pass
            (sum of the pair's token NLLs) * N / T.
        alpha: Strength of the preference term (the paper's lambda, TRL's `beta`).
        beta: Temperature of the odds ratio (1 in the paper).

    Returns:
        An `ORPOLoss` in float32 (float64 for float64 inputs), whatever dtype came in.

    Raises:
        ValueError: The three inputs do not have one common shape (pairs,).
    """
    require_pairs(chosen_logps, rejected_logps, nll)
    chosen_log_odds, rejected_log_odds = log_odds(chosen_logps), log_odds(rejected_logps)
    z = chosen_log_odds - rejected_log_odds
    log_odds_ratio = F.logsigmoid(beta * z)
    nll_loss = nll.to(compute_dtype(nll)).mean()
    odds_ratio_loss = -log_odds_ratio.mean()
    return ORPOLoss(
        loss=nll_loss + alpha * odds_ratio_loss,
        nll_loss=nll_loss,
        odds_ratio_loss=odds_ratio_loss,
        log_odds=z,
        chosen_log_odds=chosen_log_odds,
        rejected_log_odds=rejected_log_odds,
        log_odds_ratio=log_odds_ratio,
        chosen_rewards=alpha * beta * chosen_logps.detach().to(z.dtype),
        rejected_rewards=alpha * beta * rejected_logps.detach().to(z.dtype),
    )
