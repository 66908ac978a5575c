"""Rotary positions that change with the longest sequence of a forward pass.

Two kinds of `transformers.modeling_rope_utils` choose their frequencies by the largest position
that goes through the model at once: longrope has one set up to `original_max_position_embeddings`
and another one beyond it; dynamic NTK scaling has a set of its own for every length beyond, and
keeps the longest that it has seen. What a sequence gets is therefore its own only beside sequences
on the same side of the border, and after those that it has seen are forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = ["Border", "borders_of", "forget_lengths"]


@dataclass(frozen=True, order=True)
class Border:
    """A length beyond which a model's rotary positions are others.

    Attributes:
        tokens: The longest sequence on the near side.
        graded: Whether every length beyond has positions of its own.
    """

    tokens: int
    graded: bool = False

    def side(self, length: int) -> int:
        """What sequences have in common that may go through the model together."""
        return max(length, self.tokens) if self.graded else int(length > self.tokens)


def borders_of(model: nn.Module) -> tuple[Border, ...]:
    """The borders of a model, the nearest first; none for positions that do not change."""
    found = set()
    for module, layers, kind in _embeddings(model):
        if "dynamic" in kind:
            found.add(Border(int(module.original_max_seq_len), graded=True))
        elif kind == "longrope":
            settings = module.config.rope_parameters
            own = settings if layers is None else settings[layers]
            found.add(Border(int(own["original_max_position_embeddings"])))
    return tuple(sorted(found))


def forget_lengths(model: nn.Module) -> None:
    """Have dynamic rotary positions begin anew, as if no sequence had gone through the model."""
    for module, layers, kind in _embeddings(model):
        if "dynamic" not in kind:
            continue
        prefix = "" if layers is None else f"{layers}_"
        now = getattr(module, f"{prefix}inv_freq")
        original = getattr(module, f"{prefix}original_inv_freq").to(now.device)
        module.register_buffer(f"{prefix}inv_freq", original, persistent=False)
        setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


def _embeddings(model: nn.Module) -> Iterator[tuple[Any, str | None, str]]:
    """Rotary embeddings with a kind of layers that they have positions for, and how those scale."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if isinstance(kinds, str):
            yield module, None, kinds
        elif isinstance(kinds, dict):
            yield from ((module, layers, str(kind)) for layers, kind in kinds.items())
