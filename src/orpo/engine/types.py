"""The seam between training and the engines: a model and a batch in, the loss out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from orpo.engine.fused_head import FusedHead
from orpo.engine.head import Objective
from orpo.objective.types import PairLogps


@dataclass(frozen=True)
class EngineOutput:
    """What one pass over a batch gives."""

    loss: Tensor  # the objective's value, a scalar that carries the gradient
    logps: PairLogps  # the log-probabilities that it was computed from, without gradient
    aux_loss: Tensor | None = None
    """The router's auxiliary loss of a mixture-of-experts model, a scalar, or None."""
    positions: int = 0  # positions that went through the model, padding among them
    predictions: int = 0  # positions whose logits were computed


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

    @property
    def nll_scope(self) -> str:
        """Which tokens the NLL counts, as in `ORPOConfig.nll_scope`."""
        ...

    @property
    def router_loss(self) -> bool:
        """Whether a mixture of experts is asked for its auxiliary loss."""
        ...

    @property
    def head(self) -> FusedHead | None:
        """What takes the place of the output layer; None if logits are kept."""
        ...

    @property
    def pads(self) -> bool:
        """Whether every pair of a micro-batch takes as much room as its longest."""
        ...

    def release(self, model: nn.Module) -> None:
        """Leave the model as it was found; the next call may change it again."""
        ...

    def positions(self, prefix: int, chosen: int, rejected: int) -> int:
        """Positions that one pair takes up in the model, from its lengths in tokens."""
        ...
