"""One optimizer step has one loss, however its pairs are dealt out to micro-batches and ranks.

With T tokens and N pairs in the step (micro-batches and ranks together) and w_i the pairs' weights,

    L = sum_i w_i nll_i / T + alpha * sum_i w_i or_i / N,

and a micro-batch contributes its pairs' part of these sums. A mean of the micro-batches' own means
would weigh a token of a short micro-batch more than one of a long micro-batch. A row without
rejected answer counts in T and not in N. Weights do not enter T and N: a pair of weight 2 pulls
twice as much as another one, in whichever step it comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from orpo.objective import ORPOLoss, PairLogps, orpo_loss

__all__ = ["StepLoss", "count_items"]


def count_items(
    batches: Iterable[Mapping[str, Tensor]], nll_scope: str, device: torch.device
) -> Tensor:
    """(1, 3) int64: NLL tokens, pairs with both answers, and rows of some batches.

    Args:
        batches: Of `orpo.data.PairCollator`.
        nll_scope: Which tokens the NLL counts, see `ORPOConfig`.
        device: Where the result is wanted.
    """
    mask = "attention_mask" if nll_scope == "sequence" else "answer_mask"
    counts = torch.zeros(1, 3, dtype=torch.int64, device=device)
    for batch in batches:
        counts[0, 0] += batch[f"chosen_{mask}"][:, 1:].sum().to(device)
        counts[0, 1] += batch["rejected_answer_mask"].any(1).sum().to(device)
        counts[0, 2] += len(batch["row"])
    return counts


@dataclass(frozen=True)
class StepLoss:
    """The ORPO loss of an optimizer step, by its parts.

    Attributes:
        alpha: Strength of the preference term.
        beta: Temperature of the odds ratio.
        aux_coef: Weight of the router's auxiliary loss; a mixture of experts computes that loss
            over the tokens that pass it at once, so it is the mean over micro-batches, by pairs.
    """

    alpha: float
    beta: float
    aux_coef: float = 0.0

    def share(self, logps: PairLogps, totals: Tensor, ranks: int = 1) -> tuple[Tensor, ORPOLoss]:
        """The share of some pairs in the loss, and the objective's own result.

        Args:
            logps: Log-probabilities of some pairs of the step.
            totals: (3,) of `count_items`: tokens, pairs and rows of the step.
            ranks: Over how many ranks gradients are averaged.

        Returns:
            A scalar whose average over ranks, summed over pairs, is the step's L.
        """
        tokens, pairs, _ = totals.to(logps.nll_sum.dtype).clamp(min=1).unbind()
        result = orpo_loss(
            logps.chosen_logps,
            logps.rejected_logps,
            logps.nll_sum,
            alpha=self.alpha,
            beta=self.beta,
        )
        preferred = -result.log_odds_ratio * logps.has_rejected
        parts = logps.nll_sum / tokens + self.alpha * preferred / pairs
        if logps.weight is not None:
            parts = parts * logps.weight
        return parts.sum() * ranks, result

    def router_share(self, aux_loss: Tensor, rows: int, totals: Tensor, ranks: int = 1) -> Tensor:
        """The part of a micro-batch of some rows in the router's loss of the step."""
        return self.aux_coef * aux_loss * (rows / totals[2].to(aux_loss.dtype)) * ranks
