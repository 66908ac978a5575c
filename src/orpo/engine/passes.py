"""One forward pass of a model whose output layer is taken over by the fused head."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from orpo.engine.fused_head import FusedHead, tap
from orpo.engine.head import Objective
from orpo.engine.layout import Predictions
from orpo.engine.types import EngineOutput
from orpo.objective.types import PairLogps


def fused_pass(
    model: nn.Module,
    layer: nn.Module,
    inputs: Mapping[str, Any],
    predictions: Predictions,
    objective: Objective,
    head: FusedHead,
) -> EngineOutput:
    """Loss and log-probabilities of a batch; the head takes the place of the output layer."""
    found: list[tuple[Tensor, PairLogps]] = []

    def score(hidden: Tensor) -> Tensor:
        loss, logps = head(layer, hidden, predictions, objective)
        found.append((loss, logps))
        return loss

    with tap(layer, score):
        outputs = model(**inputs)
    ((loss, logps),) = found
    if loss.requires_grad:
        # Zero, by way of the model's output: wrappers listen there for the backward pass.
        loss = loss + outputs.logits.sum().to(loss.dtype)
    wanted = inputs.get("output_router_logits")
    aux_loss = getattr(outputs, "aux_loss", None) if wanted else None
    positions, asked = inputs["input_ids"].numel(), len(predictions.target)
    return EngineOutput(loss, logps, aux_loss, positions, asked)
