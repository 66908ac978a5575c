"""The seam between training and the engines: a model and a batch in, the loss out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor, nn

from orpo.objective import PairLogps

__all__ = ["Engine", "EngineOutput", "Objective"]

Objective: TypeAlias = Callable[[PairLogps], Tensor]
"""From the log-probabilities of a batch to its scalar loss.

It is handed to the engine, rather than applied to what the engine returns, because a fused head
has to know the gradient of the loss before it lets go of the logits.
"""


@dataclass(frozen=True)
class EngineOutput:
    """What one pass over a batch gives.

    Attributes:
        loss: The objective's value, a scalar that carries the gradient.
        logps: The log-probabilities that it was computed from.
    """

    loss: Tensor
    logps: PairLogps


class Engine(Protocol):
    """A way to take a batch of pairs through a model."""

    @property
    def name(self) -> str:
        """The engine's name, as in `ORPOConfig.engine`."""
        ...

    def __call__(
        self, model: nn.Module, batch: Mapping[str, Tensor], objective: Objective
    ) -> EngineOutput:
        """Score a batch of `orpo.data.PairCollator` and apply the objective."""
        ...
