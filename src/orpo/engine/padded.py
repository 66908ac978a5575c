"""The padded engine: both answers of every pair as padded rows, one forward pass.

It works with any decoder-only model. With the naive head (`head=None`) it assumes nothing about
the output layer either, and is the reference that everything faster is held to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from orpo.engine.fused_head import FusedHead
from orpo.engine.head import sum_pairs, token_logps
from orpo.engine.head_tap import output_layer
from orpo.engine.layout import Predictions, pad_pairs
from orpo.engine.noise import noisy, padded_noise
from orpo.engine.passes import fused_pass
from orpo.engine.types import EngineOutput, Objective

__all__ = ["PaddedEngine"]


@dataclass(frozen=True)
class PaddedEngine:
    """Chosen rows beside rejected rows, right-padded, through the model at once.

    Attributes:
        nll_scope: "sequence" or "completion", see `ORPOConfig`.
        router_loss: Ask a mixture-of-experts model for its auxiliary loss.
        head: The fused head; None for the naive one, which keeps all logits.
    """

    nll_scope: str = "sequence"
    router_loss: bool = False
    head: FusedHead | None = None
    name: ClassVar[str] = "padded"
    pads: ClassVar[bool] = True

    def __call__(
        self, model: nn.Module, batch: Mapping[str, Tensor], objective: Objective
    ) -> EngineOutput:
        """Score a batch of `orpo.data.PairCollator` and apply the objective."""
        padded = pad_pairs(batch, self.nll_scope)
        with noisy(model, padded_noise(batch)):
            return self.score(
                model, padded.input_ids, padded.attention_mask, padded.predictions, objective
            )

    def score(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        predictions: Predictions,
        objective: Objective,
    ) -> EngineOutput:
        """Score what some rows are asked for, and apply the objective.

        Args:
            model: The model, wrapped or not.
            input_ids: (rows, L) int64.
            attention_mask: (rows, L) int64; None where nothing is padded.
            predictions: What is asked for.
            objective: From log-probabilities to the loss.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "use_cache": False,
            **({"output_router_logits": True} if self.router_loss else {}),
        }
        layer = None if self.head is None else output_layer(model)
        if self.head is None or layer is None:
            return self._naive(model, inputs, predictions, objective)
        return fused_pass(model, layer, inputs, predictions, objective, self.head)

    def release(self, model: nn.Module) -> None:
        """Nothing was changed."""

    def positions(self, prefix: int, chosen: int, rejected: int) -> int:
        """Positions that one pair takes up in the model at most, without padding to a longer pair.

        Lengths do not tell a row without rejected answer, which takes up half of them, from one
        whose rejected answer is the beginning of its chosen one.
        """
        return 2 * (prefix + max(chosen, rejected))

    def _naive(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        predictions: Predictions,
        objective: Objective,
    ) -> EngineOutput:
        outputs = model(**inputs)
        logps = sum_pairs(token_logps(outputs.logits, predictions), predictions)
        aux_loss = getattr(outputs, "aux_loss", None) if self.router_loss else None
        positions = inputs["input_ids"].numel()
        return EngineOutput(objective(logps), logps.detached(), aux_loss, positions, positions)
