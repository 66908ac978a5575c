"""The method equation by equation, as the paper writes it (arXiv 2403.07691).

Slow, obvious and only meant for float64 and moderate log-probabilities: the test suite holds the
stable versions to it. Nothing in the library calls it.
"""

import torch
from torch import Tensor


def average_logp(token_logps: Tensor) -> Tensor:
    """Eq. 3: log P(y|x) = (1/m) * sum_t log P(y_t | x, y_<t); token_logps has shape (m,)."""
    return token_logps.sum() / token_logps.numel()


def odds(logps: Tensor) -> Tensor:
    """Eq. 4: odds(y|x) = P(y|x) / (1 - P(y|x)); logps has shape (pairs,)."""
    probability = torch.exp(logps)
    return probability / (1 - probability)


def odds_ratio(chosen_logps: Tensor, rejected_logps: Tensor) -> Tensor:
    """Eq. 5: OR(y_w, y_l) = odds(y_w|x) / odds(y_l|x)."""
    return odds(chosen_logps) / odds(rejected_logps)


def odds_ratio_loss(chosen_logps: Tensor, rejected_logps: Tensor, beta: float = 1.0) -> Tensor:
    """Eq. 7, with a temperature: L_OR = -log sigmoid(beta * log OR), shape (pairs,)."""
    log_ratio = torch.log(odds_ratio(chosen_logps, rejected_logps))
    return -torch.log(torch.sigmoid(beta * log_ratio))


def orpo_loss(
    chosen_logps: Tensor, rejected_logps: Tensor, nll: Tensor, *, alpha: float, beta: float = 1.0
) -> Tensor:
    """Eq. 6: L = E[L_SFT + lambda * L_OR], a scalar."""
    return nll.mean() + alpha * odds_ratio_loss(chosen_logps, rejected_logps, beta).mean()


def dpo_loss(
    policy: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor], beta: float
) -> Tensor:
    """Eq. 7 of arXiv 2305.18290 on summed log-probabilities (chosen, rejected), a scalar."""
    ratio_w = torch.exp(policy[0] - reference[0])
    ratio_l = torch.exp(policy[1] - reference[1])
    return -torch.log(torch.sigmoid(beta * torch.log(ratio_w) - beta * torch.log(ratio_l))).mean()
