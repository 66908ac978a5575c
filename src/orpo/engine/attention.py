"""How packed rows reach a model's attention: through transformers' own interface, nothing patched.

`prepare_attention` registers, beside the implementation that a model uses ("sdpa", "eager", ...),
one that does the same for ordinary inputs, so that generation and padded evaluation go on as
before, and that follows the layout where one is given: extra arguments of `model(...)` reach the
attention function of every layer, also when a checkpointed layer is computed again.

Kernels are tried before they are trusted, each against attention by definition, with what the
layers asked for in a trial without kernels: neither the model nor its memory is needed. Rows are
longer than a kernel's tiles, windows shorter than the rows, soft caps as low as scores are large.
"""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from orpo.engine.backends import (
    BACKENDS,
    AttentionCall,
    Features,
    attend,
    choose_backend,
    kernels_of,
)
from orpo.engine.layout import PairLayout
from orpo.objective.log_odds import compute_dtype

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

    A ValueError where transformers cannot change the implementation of this model.
    """
    before = str(model.config._attn_implementation or "eager")
    if before.startswith(PREFIX):
        return
    name = PREFIX + before
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, _attention_beside(before))
        AttentionMaskInterface.register(name, _mask_beside(before))
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
            # That of "eager" is the model family's own.
            own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
            ordinary: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(base, own)
            result: tuple[Tensor, Tensor | None] = ordinary(
                module, query, key, value, attention_mask, **settings
            )
            return result
        return attend(module, query, key, value, pair_layout, settings), None

    return attention


def _mask_beside(base: str) -> Callable[..., Any]:
    ordinary = ALL_MASK_ATTENTION_FUNCTIONS.get(base)

    def mask(*args: Any, **kwargs: Any) -> Any:
        return None if _PACKED.get() or ordinary is None else ordinary(*args, **kwargs)

    return mask


_ROWS = ([(150, 90, 110), (40, 60, 30)], [(20, 15, 25)])
"""P, C and R of two rows' pairs: over several tiles, and within one."""
_WINDOW = 33
"""In the place of a layer's own window: a mistake by one key is far above the tolerance."""
_SOFTCAP = 2.0
"""In the place of a layer's own soft cap, and the size of the scores then."""
_TOLERANCE = 0.03
"""Largest relative error that passes. Back ends of a processor are 0.005 from the definition in
bfloat16; one key of a window of 33 more or less makes 0.1."""
_COMPARED = ("its output", "its gradient of Q", "its gradient of K", "its gradient of V")


def try_kernels(
    calls: Iterable[AttentionCall], device: torch.device, dtype: torch.dtype | None
) -> tuple[set[str], dict[str, str]]:
    """Which back ends layers get on a device when the kernels that fail are left out.

    `calls` are what the layers asked for; `dtype` is what the model will multiply in, None for
    that of the calls. Also gives, of each kernel that failed, one line that says how.
    """
    wanted = {replace(call, dtype=dtype or call.dtype) for call in calls}
    failed: dict[str, str] = {}
    passed: set[AttentionCall] = set()
    while True:
        chosen = {_chosen(call, device, failed.keys()) for call in wanted}
        new = {}
        for call in chosen - passed:
            reason = _difference(call, device) if call.backend in kernels_of(device) else None
            if reason is None:
                passed.add(call)
            else:
                new[call.backend] = reason
        if not new:
            return {call.backend for call in chosen}, failed
        failed |= new


def _chosen(call: AttentionCall, device: torch.device, avoid: Iterable[str]) -> AttentionCall:
    query = torch.empty(1, call.heads, 1, call.width, dtype=call.dtype, device=device)
    return replace(call, backend=choose_backend(query, _features(call, query), frozenset(avoid)))


def _features(call: AttentionCall, query: Tensor) -> Features:
    sinks = query.new_zeros(call.heads) if call.sinks else None
    return Features(call.scale, call.window, call.softcap, sinks)


def _difference(call: AttentionCall, device: torch.device) -> str | None:
    """One line on what a kernel gets wrong; None if it agrees with the definition."""
    for lengths in _ROWS:
        layout = PairLayout.of(lengths, device)
        inputs, above = _random(call, layout)
        exact = [x.to(compute_dtype(x)) for x in inputs]
        expected = _attend("segmented", call, layout, exact, above)
        try:
            found = _attend(call.backend, call, layout, inputs, above)
        except Exception as error:  # whatever a kernel raises: there is another way
            return next(iter(str(error).splitlines()), type(error).__name__)
        for name, ours, theirs in zip(_COMPARED, found, expected, strict=True):
            apart = float((ours - theirs).norm() / theirs.norm())
            if not apart <= _TOLERANCE:
                return f"{name} {apart:.2g} apart from attention by definition"
    return None


def _random(call: AttentionCall, layout: PairLayout) -> tuple[list[Tensor], Tensor]:
    """Queries, keys and values, and the gradient that reaches the output."""
    generator = torch.Generator().manual_seed(0)

    def normal(heads: int, width: int, dtype: torch.dtype) -> Tensor:
        found = torch.randn(1, heads, layout.tokens, width, generator=generator)
        return found.to(layout.positions.device, dtype)

    size = (_SOFTCAP if call.softcap else 1.0) / (call.scale * call.width**0.5)
    inputs = [
        normal(call.heads, call.width, torch.float32).mul_(size).to(call.dtype),
        normal(call.key_heads, call.width, call.dtype),
        normal(call.key_heads, call.value_width, call.dtype),
    ]
    above = normal(call.heads, call.value_width, torch.float32).transpose(1, 2)
    return inputs, above


def _attend(
    name: str, call: AttentionCall, layout: PairLayout, inputs: list[Tensor], above: Tensor
) -> list[Tensor]:
    """The output and the three gradients, in float32 or wider."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    features = replace(
        _features(call, inputs[0]),
        window=_WINDOW if call.window else None,
        softcap=_SOFTCAP if call.softcap else None,
    )
    with torch.enable_grad():
        output = BACKENDS[name](*leaves, layout, **features.arguments())
        gradients = torch.autograd.grad(output, leaves, above.to(output.dtype))
    return [x.detach().to(compute_dtype(x)) for x in (output, *gradients)]
