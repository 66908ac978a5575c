"""One optimizer step has one loss, however its pairs are dealt out to micro-batches and ranks.

With T tokens and N pairs in the step (micro-batches and ranks together) and w_i the pairs' weights,

    ORPO    L = sum_i w_i nll_i / T + alpha * sum_i w_i or_i / N       eq. 6 of arXiv 2403.07691
    SFT     L = sum_i w_i nll_i / T                                    its first term
    DPO     L = sum_i w_i dpo_i / N                                    eq. 7 of arXiv 2305.18290

with or_i = -log sigmoid(beta z_i) and dpo_i = -log sigmoid(dpo_beta * margin_i), and a micro-batch
contributes its pairs' part of these sums. A mean of the micro-batches' own means would weigh a
token of a short micro-batch more than one of a long micro-batch. A row without rejected answer
counts in T and not in N. Weights do not enter T and N: a pair of weight 2 pulls twice as much as
another one, in whichever step it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from orpo.config import ORPOConfig
from orpo.objective.dpo import DPOLoss, dpo_loss
from orpo.objective.orpo import ORPOLoss, orpo_loss
from orpo.objective.types import PairLogps


def count_items(
    batches: Iterable[Mapping[str, Tensor]], nll_scope: str, device: torch.device
) -> Tensor:
    """(1, 3) int64: NLL tokens, pairs with both answers, and rows of some batches."""
    mask = "attention_mask" if nll_scope == "sequence" else "answer_mask"
    counts = torch.zeros(1, 3, dtype=torch.int64, device=device)
    for batch in batches:
        counts[0, 0] += batch[f"chosen_{mask}"][:, 1:].sum().to(device)
        counts[0, 1] += batch["rejected_answer_mask"].any(1).sum().to(device)
        counts[0, 2] += len(batch["row"])
    return counts


@dataclass(frozen=True)
class StepLoss:
    """The loss of an optimizer step, by its parts.

    Attributes:
        alpha: Strength of ORPO's preference term.
        beta: Temperature of the odds ratio.
        aux_coef: Weight of the router's auxiliary loss; a mixture of experts computes that loss
            over the tokens that pass it at once, so it is the mean over micro-batches, by pairs.
        objective: "orpo", "sft" or "dpo".
        dpo_beta: Strength of DPO's implicit KL constraint.
    """

    alpha: float
    beta: float
    aux_coef: float = 0.0
    objective: str = "orpo"
    dpo_beta: float = 0.1

    @classmethod
    def of(cls, args: ORPOConfig, aux_coef: float = 0.0) -> StepLoss:
        """The loss that some settings ask for; what they leave open is of another objective."""
        alpha, beta, dpo_beta = args.orpo_alpha, args.orpo_beta, args.dpo_beta
        return cls(
            0.0 if alpha is None else alpha,
            1.0 if beta is None else beta,
            aux_coef,
            args.objective,
            0.1 if dpo_beta is None else dpo_beta,
        )

    def share(self, logps: PairLogps, totals: Tensor, ranks: int = 1) -> Tensor:
        """The share of some pairs in the loss."""
        tokens, pairs, _ = totals.to(logps.nll_sum.dtype).clamp(min=1).unbind()
        parts = _PARTS[self.objective](self, logps, tokens, pairs)
        if logps.weight is not None:
            parts = parts * logps.weight
        return parts.sum() * ranks

    def orpo(self, logps: PairLogps) -> ORPOLoss:
        """ORPO's figures of some pairs, whatever is trained: odds ratios compare all objectives."""
        return orpo_loss(
            logps.chosen_logps,
            logps.rejected_logps,
            logps.nll_sum,
            alpha=self.alpha,
            beta=self.beta,
        )

    def dpo(self, logps: PairLogps) -> DPOLoss:
        """DPO's figures of some pairs, whose reference must be known."""
        assert logps.reference_chosen is not None, "DPO needs the reference's log-probabilities"
        assert logps.reference_rejected is not None
        return dpo_loss(
            logps.chosen_sum,
            logps.rejected_sum,
            logps.reference_chosen,
            logps.reference_rejected,
            beta=self.dpo_beta,
        )

    def router_share(self, aux_loss: Tensor, rows: int, totals: Tensor, ranks: int = 1) -> Tensor:
        """The part of a micro-batch of some rows in the router's loss of the step."""
        return self.aux_coef * aux_loss * (rows / totals[2].to(aux_loss.dtype)) * ranks


def _orpo_parts(loss: StepLoss, logps: PairLogps, tokens: Tensor, pairs: Tensor) -> Tensor:
    preferred = -loss.orpo(logps).log_odds_ratio * logps.has_rejected
    return logps.nll_sum / tokens + loss.alpha * preferred / pairs


def _sft_parts(_loss: StepLoss, logps: PairLogps, tokens: Tensor, _pairs: Tensor) -> Tensor:
    return logps.nll_sum / tokens


def _dpo_parts(loss: StepLoss, logps: PairLogps, _tokens: Tensor, pairs: Tensor) -> Tensor:
    return -loss.dpo(logps).log_sigmoid * logps.has_rejected / pairs


_Parts = Callable[[StepLoss, PairLogps, Tensor, Tensor], Tensor]
"""From the log-probabilities of some pairs, and the step's T and N, to their parts of L."""

_PARTS: dict[str, _Parts] = {"orpo": _orpo_parts, "sft": _sft_parts, "dpo": _dpo_parts}
