"""One cast where there were several: the same products, and nothing where they would differ."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn

from orpo.engine.compiling import is_plain_lora, share_casts
from orpo.engine.fused_head import output_layer
from orpo.engine.memory import _saved_bytes
from tests.engine.families import (
    FAMILIES,
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
    engine = prepared(model)
    exact = of_engine(engine, model, BATCH)
    plain = of_engine(engine, model, BATCH, autocast=True)
    undo = share_casts(model)
    shared = of_engine(engine, model, BATCH, autocast=True)
    assert apart(shared, exact)[1] < 1.5 * apart(plain, exact)[1]
    assert of_engine(engine, model, BATCH)[0] == exact[0]
    undo()
    assert of_engine(engine, model, BATCH, autocast=True)[0] == plain[0]


@pytest.mark.parametrize(("kind", "share"), [("full", 0.97), ("LoRA", 0.9)])
def test_less_is_kept_for_the_backward_pass(kind: str, share: float) -> None:
    model = MODELS[kind]()
    before = _saved_bytes(model, output_layer(model), 60, bfloat16)
    share_casts(model)
    assert _saved_bytes(model, output_layer(model), 60, bfloat16) < share * before


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


@pytest.mark.parametrize("settings", [{"lora_dropout": 0.1}, {"use_dora": True}])
def test_other_adapters_are_left_alone(settings: dict[str, Any]) -> None:
    model = with_lora("llama", **settings)
    assert any(hasattr(m, "lora_A") for m in model.modules())
    assert not any(is_plain_lora(m) for m in model.modules())
    share_casts(model)
    assert hooks(model) == 0


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "gpt2", "mixtral", "olmo3"])
def test_norms_that_other_things_read_are_left_alone(family: str) -> None:
    assert family in FAMILIES
    model = model_of(family)
    share_casts(model)
    assert hooks(model) == 0
