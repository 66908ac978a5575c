"""The shared engine: every pair once, without padding, the prompt computed for both answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from orpo.engine.attention import packed_masks, prepare_attention, restore_attention, transformer
from orpo.engine.fused_head import FusedHead, output_layer
from orpo.engine.head import Objective
from orpo.engine.layout import PairLayout, pack_pairs
from orpo.engine.noise import noisy, packed_noise
from orpo.engine.passes import fused_pass
from orpo.engine.types import EngineOutput


@dataclass(frozen=True)
class SharedEngine:
    """One packed row `P C R | P C R | ...` through the model; see `orpo.engine.layout`.

    Calling it switches the model's attention to the implementation that knows packed rows
    (`prepare_attention`); `release` switches it back.
    """

    nll_scope: str = "sequence"  # "sequence" or "completion", see `ORPOConfig`
    router_loss: bool = False  # ask a mixture-of-experts model for its auxiliary loss
    head: FusedHead = field(default_factory=FusedHead)  # the fused head
    backend: str | None = None  # name of the attention back end; None for the fastest one
    avoid: frozenset[str] = frozenset()  # names of back ends that are not used if there is another
    name: ClassVar[str] = "shared"
    pads: ClassVar[bool] = False

    def __call__(
        self, model: nn.Module, batch: Mapping[str, Tensor], objective: Objective
    ) -> EngineOutput:
        """Score a batch of `orpo.data.PairCollator` and apply the objective."""
        packed = pack_pairs(batch, self.nll_scope, self.backend, self.avoid)
        inputs = {
            "input_ids": packed.input_ids,
            "position_ids": packed.position_ids,
            "attention_mask": None,
            "use_cache": False,
            "pair_layout": packed.layout,
        }
        if self.router_loss:
            # The router counts a shared token as often as the two sequences hold it.
            weight = _times_read(packed.layout, batch["rejected_answer_mask"].any(1).tolist())[None]
            inputs |= {"output_router_logits": True, "attention_mask": weight}
        bare, layer = transformer(model), output_layer(model)
        assert bare is not None
        assert layer is not None
        prepare_attention(bare)
        with packed_masks(), noisy(model, packed_noise(batch, packed.layout)):
            return fused_pass(model, layer, inputs, packed.predictions, objective, self.head)

    def release(self, model: nn.Module) -> None:
        """Give the model the attention back that it had."""
        bare = transformer(model)
        if bare is not None:
            restore_attention(bare)

    def positions(self, prefix: int, chosen: int, rejected: int) -> int:
        """Positions that one pair takes up in the model."""
        return prefix + chosen + rejected


def _times_read(layout: PairLayout, answered: list[bool]) -> Tensor:
    """(S,) int64: 2 for tokens of a prefix that two sequences begin with, 1 for the others."""
    times = torch.ones_like(layout.positions)
    for span, both in zip(layout.spans, answered, strict=True):
        if both:
            times[span.start : span.fork] = 2
    return times
