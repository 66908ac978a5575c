"""Which engine takes the pairs through this model, and why."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from orpo.engine.attention import transformer, try_kernels
from orpo.engine.backends import KERNELS, kernels_of, watched_attention
from orpo.engine.fused_head import FusedHead, output_layer, probe_transform
from orpo.engine.padded import ApartEngine, PaddedEngine
from orpo.engine.probing import borders_of
from orpo.engine.self_test import NOT_FINITE, self_test
from orpo.engine.shared import SharedEngine
from orpo.engine.types import Engine
from orpo.errors import ConfigError, ModelError

_SHARED_LAYERS = {"full_attention", "sliding_attention"}
_PASSED = "self-test passed"


def select_engine(
    requested: str,
    model: nn.Module | None,
    nll_scope: str,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    training: bool = False,
) -> tuple[Engine, str]:
    """The engine for a model, with one line that says why.

    The shared engine where its numbers are those of the model, which is tried out; else padded
    rows, and where those depend on each other one sequence at a time.

    Args:
        requested: `ORPOConfig.engine`.
        model: The model, not wrapped yet.
        nll_scope: `ORPOConfig.nll_scope`.
        device: Where the model will be trained; None for where it is.
        dtype: In which it will multiply; None for that of its weights.
        training: Whether it draws no random numbers while it is trained, and is tried as such.

    Raises:
        ConfigError: The shared engine was asked for and cannot be used.
        ModelError: The same text does not have the same numbers twice, or none that are finite.
    """
    config: Any = getattr(model, "config", None)
    router_loss = bool(getattr(config, "output_router_logits", False))
    head, head_reason = _find_head(model)
    reason = "asked for" if requested == "padded" else head_reason
    if reason is None:
        assert model is not None
        assert head is not None
        shared = SharedEngine(nll_scope, router_loss, head)
        reason = _obstacle(model)
        if reason is None:
            tried = _try_shared(model, shared, device, dtype, training=training)
            if not isinstance(tried, str):
                engine, how = tried
                return engine, f"shared engine (prompts computed once, no padding; {how})"
            reason = tried
    if requested == "shared":
        raise ConfigError(
            f"the shared engine cannot be used: {reason}",
            where="engine",
            fix="Use engine='auto' or 'padded'.",
        )
    if model is None:
        return PaddedEngine(nll_scope, router_loss), f"padded engine, logits kept ({reason})"
    return _padded(model, PaddedEngine(nll_scope, router_loss, head), reason, training=training)


def _padded(
    model: nn.Module, fused: PaddedEngine, reason: str, *, training: bool
) -> tuple[Engine, str]:
    """The fastest way of padding that has the model's numbers."""
    heads = [fused, replace(fused, head=None)] if fused.head is not None else [fused]
    ways: list[tuple[Engine, str]] = [(_apart(model, way), "") for way in heads]
    ways += [(ApartEngine(way, alone=True), ", one sequence at a time") for way in heads]
    where = type(transformer(model) or model).__name__
    for engine, how in ways:
        failed = self_test(model, engine, training=training)
        engine.release(model)
        if failed is not None and NOT_FINITE in failed:
            fix = "Its weights are damaged, or too large for its dtype: see model_dtype."
            raise ModelError(NOT_FINITE, where=where, fix=fix)
        if failed is None:
            kept = ", logits kept" if engine.head is None else ""
            return engine, f"padded engine{how}{kept} ({reason}{_told(engine)})"
        if not how:
            reason = f"{reason}; {failed}" if failed not in reason else reason
    raise ModelError(
        f"the model does not give the same numbers twice ({failed})",
        where=where,
        fix="What is random in it, or depends on what came before, must be switched off.",
    )


def _apart(model: nn.Module, engine: SharedEngine | PaddedEngine) -> Engine:
    """The engine; where a model's positions have borders, it is given one side at a time."""
    borders = borders_of(model)
    return ApartEngine(engine, borders) if borders else engine


def _told(engine: Engine) -> str:
    borders = getattr(engine, "borders", ())
    lengths = " and ".join(str(border.tokens) for border in borders)
    return f"; pairs on either side of {lengths} tokens go apart" if borders else ""


def expect_engine(config: Any) -> str:
    """What `select_engine` will find, as far as a model's configuration tells; one line."""
    reason = _layers_obstacle(config)
    if reason is None:
        return "shared engine, if its self-test passes (prompts computed once, no padding)"
    return f"padded engine ({reason})"


def _find_head(model: nn.Module | None) -> tuple[FusedHead | None, str | None]:
    layer = None if model is None else output_layer(model)
    if model is None or layer is None:
        return None, "the model names no output layer"
    transform = probe_transform(model, layer)
    if transform is None:
        return None, "what the model does to its logits is neither a factor nor a soft cap"
    return FusedHead(transform), None


def _try_shared(
    model: nn.Module,
    engine: SharedEngine,
    device: torch.device | None,
    dtype: torch.dtype | None,
    *,
    training: bool,
) -> tuple[Engine, str] | str:
    """The engine and how it passed, or why it did not; the model is left as it is."""
    tried = _apart(model, replace(engine, avoid=KERNELS))
    try:
        with watched_attention() as calls:
            reason = self_test(model, tried, training=training)
    finally:
        tried.release(model)
    if reason is not None:
        return reason
    device = device or next(model.parameters()).device
    passed = _PASSED + _told(tried)
    if not kernels_of(device):
        return _apart(model, engine), passed
    used, failed = try_kernels(calls, device, dtype)
    without = [f"without {name}: {why}" for name, why in failed.items()]
    how = [passed, f"attention by {', '.join(sorted(used))}", *without]
    return _apart(model, replace(engine, avoid=frozenset(failed))), "; ".join(how)


def _obstacle(model: nn.Module) -> str | None:
    """Why a model cannot have its prompts shared, as far as its structure tells."""
    bare = transformer(model)
    if bare is None:
        return "not a transformers model"
    adapter = getattr(model, "active_peft_config", None)
    if getattr(adapter, "is_prompt_learning", False):
        return "the adapter puts tokens before the prompt"
    if not bare._can_set_attn_implementation():
        return "its attention does not go through transformers' attention interface"
    return _layers_obstacle(bare.config) or next(_dropouts(model), None)


def _layers_obstacle(config: Any) -> str | None:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    kinds = set(getattr(text, "layer_types", None) or ())
    if strange := sorted(kinds - _SHARED_LAYERS):
        return f"layers of kind {', '.join(strange)}"
    return None


def _dropouts(model: nn.Module) -> Iterator[str]:
    for module in model.modules():
        if isinstance(module, _DropoutNd) and module.p > 0:
            yield "dropout is on, which would treat a shared prompt as one"
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float) and value > 0:
                yield f"{name} is on, which would treat a shared prompt as one"
