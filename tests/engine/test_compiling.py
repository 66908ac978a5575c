"""Cheaper steps with the same numbers: one cast where there were several, compiled blocks."""

import functools
from typing import Any

import pytest
import torch
from torch import nn

from orpo.engine.compiling import (
    can_compile,
    compile_blocks,
    compile_head,
    is_plain_lora,
    pays,
    share_casts,
    uncompile_blocks,
)
from orpo.engine.fused_head import FusedHead, output_layer
from orpo.engine.memory import saved_bytes
from orpo.engine.padded import PaddedEngine
from orpo.engine.shared import SharedEngine
from tests.engine.families import (
    LENGTHS,
    apart,
    collate,
    model_of,
    of_engine,
    prepared,
    random_pairs,
    with_lora,
)

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is:FutureWarning")

IDS = torch.arange(40)[None]
BATCH = collate(random_pairs(0, LENGTHS))
bfloat16 = functools.partial(torch.autocast, "cpu", torch.bfloat16)


MODELS = {
    "full": functools.partial(model_of, "llama"),
    "LoRA": functools.partial(with_lora, "llama"),
}
HOOKS = {"full": 2, "LoRA": 2 + 7}
"""Of a layer: its norms, and its adapters."""


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("kind", MODELS)
def test_the_forward_pass_is_the_same_bit_by_bit(kind: str) -> None:
    model = MODELS[kind]()
    with torch.no_grad(), bfloat16():
        plain = model(IDS).logits
        undo = share_casts(model)
        assert hooks(model) == HOOKS[kind] * model.config.num_hidden_layers
        assert torch.equal(model(IDS).logits, plain)
    undo()
    assert hooks(model) == 0


@pytest.mark.parametrize("kind", MODELS)
def test_gradients_differ_by_rounding_only(kind: str) -> None:
    model = MODELS[kind]()
    engine, layer = prepared(model), output_layer(model)
    exact, before = of_engine(engine, model, BATCH), saved_bytes(model, layer, 60, bfloat16)
    plain = of_engine(engine, model, BATCH, autocast=True)
    undo = share_casts(model)
    shared = of_engine(engine, model, BATCH, autocast=True)
    less = {"full": 0.97, "LoRA": 0.9}[kind]  # is kept for the backward pass
    assert saved_bytes(model, layer, 60, bfloat16) < less * before
    assert apart(shared, exact)[1] < 1.5 * apart(plain, exact)[1]
    assert of_engine(engine, model, BATCH)[0] == exact[0]
    undo()
    assert of_engine(engine, model, BATCH, autocast=True)[0] == plain[0]


def test_an_adapter_whose_input_is_not_widened_has_the_same_gradients() -> None:
    """Gemma's norms are left alone, so that its adapters are all that changes."""
    model = with_lora("gemma2")
    engine = prepared(model)
    plain, plain_grads = of_engine(engine, model, BATCH, autocast=True)
    undo = share_casts(model)
    found, grads = of_engine(engine, model, BATCH, autocast=True)
    assert found == plain
    assert plain_grads
    for name, grad in plain_grads.items():
        assert torch.equal(grads[name], grad), name
    undo()


def test_an_adapter_widens_its_input_where_nothing_else_does() -> None:
    model = with_lora("llama").to(torch.bfloat16)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.float()
    plain = model(IDS).logits
    undo = share_casts(model)
    with bfloat16():
        model(IDS)
    assert torch.equal(model(IDS).logits, plain)
    with bfloat16():
        model(IDS)
    undo()
    assert torch.equal(model(IDS).logits, plain)


def test_other_adapters_and_norms_that_other_things_read_are_left_alone() -> None:
    for settings in ({"lora_dropout": 0.1}, {"use_dora": True}):
        model = with_lora("llama", **settings)
        assert any(hasattr(m, "lora_A") for m in model.modules())
        assert not any(is_plain_lora(m) for m in model.modules())
        share_casts(model)
        assert hooks(model) == 0
    for family in ("gemma2", "gemma3", "gpt2", "mixtral", "olmo3"):
        model = model_of(family)
        share_casts(model)
        assert hooks(model) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("kind", MODELS)
def test_compiled_blocks_and_head_give_the_same_numbers(kind: str) -> None:
    if not can_compile("cpu"):
        pytest.skip("there is no compiler here")
    model = MODELS[kind]()
    engine = prepared(model)
    plain = of_engine(engine, model, BATCH)
    assert compile_blocks(model) == 3 * model.config.num_hidden_layers + 1
    fast = compile_head(engine)
    assert fast.head is not None
    assert fast.head.compiled
    assert max(apart(of_engine(fast, model, BATCH), plain)) < 1e-5
    uncompile_blocks(model)
    assert all(module._compiled_call_impl is None for module in model.modules())
    assert of_engine(engine, model, BATCH)[0] == plain[0]


def test_where_the_compiler_fails_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    can_compile.cache_clear()
    monkeypatch.setattr(torch, "compile", broken)
    assert not can_compile("cpu")
    can_compile.cache_clear()


def test_short_runs_and_naive_heads_stay_as_they_are() -> None:
    assert not pays(1e12)
    assert pays(1e15)
    assert compile_head(PaddedEngine()) == PaddedEngine()
    assert compile_head(SharedEngine()) == SharedEngine(head=FusedHead(compiled=True))
