"""How packed rows reach a model's attention: through transformers' own interface, nothing patched.

`prepare_attention` registers, beside the implementation that a model uses ("sdpa", "eager", ...),
one that does the same for ordinary inputs, so that generation and padded evaluation go on as
before, and that follows the layout where one is given: extra arguments of `model(...)` reach the
attention function of every layer, also when a checkpointed layer is computed again.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    AttentionMaskInterface,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from orpo.engine.backends import attend
from orpo.engine.layout import PairLayout

__all__ = ["PREFIX", "packed_masks", "prepare_attention", "restore_attention", "transformer"]

PREFIX = "orpo_shared_"
"""Before the name of the implementation that ordinary inputs still use."""

_PACKED: ContextVar[bool] = ContextVar("orpo_packed", default=False)


def transformer(model: nn.Module) -> PreTrainedModel | None:
    """The transformers model itself, out of adapters and wrappers for several devices."""
    bare = extract_model_from_parallel(model)
    base = None if isinstance(bare, PreTrainedModel) else getattr(bare, "get_base_model", None)
    found = bare if base is None else base()
    return found if isinstance(found, PreTrainedModel) else None


def prepare_attention(model: PreTrainedModel) -> None:
    """Switch a model to the implementation that knows packed rows, if it is not already.

    Raises:
        ValueError: transformers cannot change the implementation of this model.
    """
    before = str(model.config._attn_implementation or "eager")
    if before.startswith(PREFIX):
        return
    name = _register(before)
    model.set_attn_implementation(name)
    if model.config._attn_implementation != name:
        raise ValueError("its attention does not go through transformers' attention interface")


def restore_attention(model: PreTrainedModel) -> None:
    """Switch back to what `prepare_attention` found, if it was called."""
    name = str(model.config._attn_implementation)
    if name.startswith(PREFIX):
        model.set_attn_implementation(name.removeprefix(PREFIX))


@contextlib.contextmanager
def packed_masks() -> Iterator[None]:
    """Within it no S x S mask is built: the layout says what attends to what."""
    token = _PACKED.set(True)
    try:
        yield
    finally:
        _PACKED.reset(token)


def _register(base: str) -> str:
    """Register the implementation that adds packed rows to another; its name."""
    name = PREFIX + base
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, _attention_beside(base))
        AttentionMaskInterface.register(name, _mask_beside(base))
    return name


def _attention_beside(base: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        pair_layout: PairLayout | None = None,
        **settings: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if pair_layout is None:
            ordinary = _ordinary(base, module)
            result: tuple[Tensor, Tensor | None] = ordinary(
                module, query, key, value, attention_mask, **settings
            )
            return result
        return attend(module, query, key, value, pair_layout, settings), None

    return attention


def _ordinary(base: str, module: nn.Module) -> Callable[..., Any]:
    """The function behind a name; that of "eager" is the model family's own."""
    own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    function: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(base, own)
    return function


def _mask_beside(base: str) -> Callable[..., Any]:
    ordinary = ALL_MASK_ATTENTION_FUNCTIONS.get(base)

    def mask(*args: Any, **kwargs: Any) -> Any:
        return None if _PACKED.get() or ordinary is None else ordinary(*args, **kwargs)

    return mask
