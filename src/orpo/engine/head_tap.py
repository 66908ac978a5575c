"""Getting between a model's hidden states and its logits without patching it: forward hooks.

The output layer is called with nothing (zero positions) while a fused head works on its input, and
what it returns is an empty tensor that hangs on the loss in the autograd graph: so the wrappers
around the model (DDP, FSDP) see that the loss depends on everything that it depends on, and the
layer's weights are gathered when they are used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from orpo.engine.head_products import LogitTransform
from orpo.engine.trial import on_trial

__all__ = ["output_layer", "probe_transform", "tap"]

_PROBE = (1e-3, 1.0, -1.0, 5.0, -20.0, 1e3, -1e6)


def output_layer(model: nn.Module) -> nn.Module | None:
    """The layer that gives the logits, of a model that may be wrapped; None if there is none."""
    bare = extract_model_from_parallel(model)
    find = getattr(bare, "get_output_embeddings", None)
    layer: nn.Module | None = None if find is None else find()
    return layer


@contextlib.contextmanager
def tap(layer: nn.Module, score: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within it the layer computes nothing, and `score` gets its input, once per forward pass.

    Args:
        layer: The output layer.
        score: From the layer's input, (..., d), to a scalar that the output is made to hang on.
    """
    results: list[Tensor] = []
    scoring = False

    def before(_layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal scoring
        if scoring:  # the fused head calls the layer itself
            return None
        scoring = True
        try:
            results.append(score(inputs[0]))
        finally:
            scoring = False
        return (inputs[0].detach()[..., :0, :], *inputs[1:])

    def after(_layer: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if scoring:
            return None
        return output.detach() + results[-1].to(output.dtype)

    handles = [
        layer.register_forward_pre_hook(before),
        # First, so that wrappers wait for the backward pass of what the others will see.
        layer.register_forward_hook(after, prepend=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def probe_transform(model: nn.Module, layer: nn.Module) -> LogitTransform | None:
    """What a model does to its output layer's result, measured: numbers in, numbers out.

    Returns:
        None if it is neither a factor nor a soft cap, so that no fused head can follow it.
    """
    given: list[Tensor] = []

    def replace(_layer: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        dtype = torch.float32 if output.device.type == "mps" else torch.float64
        values = torch.tensor(_PROBE, dtype=dtype, device=output.device)
        probe = values.repeat(output.shape[-1] // len(_PROBE) + 1)[: output.shape[-1]]
        given.append(probe.expand(output.shape).contiguous())
        return given[-1]

    handle = layer.register_forward_hook(replace)
    device = next(model.parameters()).device
    try:
        with torch.no_grad(), on_trial(model):
            ids = torch.zeros(1, 2, dtype=torch.int64, device=device)
            found = model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    if not given or found.shape != given[0].shape or found.shape[-1] < len(_PROBE):
        return None
    x, y = (t.flatten()[: len(_PROBE)].double() for t in (given[0], found))
    return _fitting(x, y)


def _fitting(x: Tensor, y: Tensor) -> LogitTransform | None:
    slope = float(y[0] / x[0])
    bound = float(-y[-1])
    for transform in (LogitTransform(_rounded(slope)), LogitTransform(_rounded(slope), bound)):
        if bound > 0 and torch.allclose(transform(x), y, rtol=1e-4, atol=1e-6):
            return transform
    return None


def _rounded(slope: float) -> float:
    """A factor of one that float32 returned as 0.9999999 is a factor of one."""
    return 1.0 if abs(slope - 1) < 1e-5 else slope
