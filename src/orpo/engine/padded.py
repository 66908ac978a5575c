"""The padded engine: both answers of every pair as padded rows, one forward pass, naive head.

It is the reference that faster engines are held to: any decoder-only model, no assumptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from orpo.engine.head import sum_dtype, token_logps
from orpo.engine.types import EngineOutput, Objective
from orpo.objective import PairLogps

__all__ = ["PaddedEngine"]


@dataclass(frozen=True)
class PaddedEngine:
    """Chosen rows above rejected rows, right-padded, through the model at once.

    Attributes:
        nll_scope: "sequence" or "completion", see `ORPOConfig`.
        router_loss: Ask a mixture-of-experts model for its auxiliary loss.
    """

    nll_scope: str = "sequence"
    router_loss: bool = False
    name: ClassVar[str] = "padded"

    def __call__(
        self, model: nn.Module, batch: Mapping[str, Tensor], objective: Objective
    ) -> EngineOutput:
        """Score a batch of `orpo.data.PairCollator` and apply the objective."""
        logps = self.score(model, batch)
        return EngineOutput(objective(logps), logps)

    def score(self, model: nn.Module, batch: Mapping[str, Tensor]) -> PairLogps:
        """The log-probabilities of a batch, with gradient."""
        input_ids, attention_mask, answer_mask = (
            torch.cat([batch[f"chosen_{name}"], batch[f"rejected_{name}"]])
            for name in ("input_ids", "attention_mask", "answer_mask")
        )
        pairs = len(batch["row"])
        answers = _but_first(answer_mask.bool())
        sequences = _but_first(attention_mask.bool())
        nll = (sequences if self.nll_scope == "sequence" else answers)[:pairs]
        predicted = answers.clone()
        predicted[:pairs] |= nll
        extra = {"output_router_logits": True} if self.router_loss else {}
        outputs = model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **extra
        )
        logps = token_logps(outputs.logits, input_ids, predicted)
        sums = (logps * answers).sum(1, dtype=sum_dtype(logps))
        counts = answers.sum(1)
        return PairLogps(
            chosen_sum=sums[:pairs],
            chosen_tokens=counts[:pairs],
            rejected_sum=sums[pairs:],
            rejected_tokens=counts[pairs:],
            nll_sum=-(logps[:pairs] * nll).sum(1, dtype=sum_dtype(logps)),
            nll_tokens=nll.sum(1),
            aux_loss=getattr(outputs, "aux_loss", None) if self.router_loss else None,
        )


def _but_first(mask: Tensor) -> Tensor:
    """The first token of a sequence has no predecessor and is never predicted."""
    mask = mask.clone()
    mask[:, 0] = False
    return mask
