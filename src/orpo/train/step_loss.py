"""One optimizer step has one loss, however its pairs are dealt out to micro-batches and ranks.

With T tokens and N pairs in the step (micro-batches and ranks together),

    L = sum_i nll_i / T + alpha * sum_i or_i / N = mean_i [nll_i * N / T + alpha * or_i],

and a micro-batch contributes its pairs' part of that mean. A mean of the micro-batches' own means
would weigh a token of a short micro-batch more than one of a long micro-batch.
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
    """(1, 2) int64: NLL tokens and pairs of some batches of `orpo.data.PairCollator`."""
    mask = "attention_mask" if nll_scope == "sequence" else "answer_mask"
    counts = torch.zeros(1, 2, dtype=torch.int64, device=device)
    for batch in batches:
        counts[0, 0] += batch[f"chosen_{mask}"][:, 1:].sum().to(device)
        counts[0, 1] += len(batch["row"])
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
            totals: (2,): NLL tokens and pairs of the step.
            ranks: Over how many ranks gradients are averaged.

        Returns:
            A scalar whose average over ranks, summed over pairs, is the step's L.
        """
        pairs = len(logps.nll_sum)
        step_tokens, step_pairs = totals.to(logps.nll_sum.dtype).unbind()
        result = orpo_loss(
            logps.chosen_logps,
            logps.rejected_logps,
            logps.nll_sum * (step_pairs / step_tokens),
            alpha=self.alpha,
            beta=self.beta,
        )
        return result.loss * (pairs / step_pairs) * ranks, result

    def router_share(self, aux_loss: Tensor, pairs: int, totals: Tensor, ranks: int = 1) -> Tensor:
        """The part of a micro-batch of `pairs` pairs in the router's loss of the step."""
        return self.aux_coef * aux_loss * (pairs / totals[1].to(aux_loss.dtype)) * ranks
