"""Which engine is chosen, and what is said about it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

from orpo import ConfigError
from orpo.engine.fused_head import FusedHead
from orpo.engine.head import LogitTransform
from orpo.engine.padded import PaddedEngine
from orpo.engine.select import expect_engine, select_engine
from orpo.engine.shared import SharedEngine
from orpo.errors import ModelError
from orpo.setting_types import CHOICES
from tests.engine.families import (
    FALL_BACK,
    LENGTHS,
    SHARED,
    SIZES,
    apart,
    by_definition,
    collate,
    exact_copy,
    model_of,
    of_engine,
    random_pairs,
)
from tests.train.small import tiny_llama

INTERFACE = "its attention does not go through transformers' attention interface"
WHY = {
    "qwen3_next": "layers of kind linear_attention",
    "lfm2": "layers of kind conv",
    "mamba": "layers of kind linear_attention",
    "falcon": INTERFACE,
    "bloom": INTERFACE,
    "mpt": INTERFACE,
    "gptj": INTERFACE,
    "llama4": "layers of kind chunked_attention",
}
SCOPES = ["sequence", "completion"]


@pytest.mark.parametrize("family", FALL_BACK)
def test_what_cannot_be_shared_is_padded(family: str) -> None:
    """And the fused head is kept: it asks nothing of the layers."""
    model = model_of(family)
    before = model.config._attn_implementation
    engine, note = select_engine("auto", model, "sequence")
    assert engine == PaddedEngine(head=FusedHead(LogitTransform()))
    assert note == f"padded engine ({WHY[family]})"
    assert model.config._attn_implementation == before
    with pytest.raises(ConfigError, match="the shared engine cannot be used") as caught:
        select_engine("shared", model, "sequence")
    assert WHY[family] in str(caught.value)


@pytest.mark.parametrize("family", FALL_BACK)
def test_padded_rows_of_these_equal_the_oracle(family: str) -> None:
    model, pairs = model_of(family), random_pairs(1, LENGTHS)
    expected = by_definition(exact_copy(model), pairs)
    for engine in (select_engine("auto", model, "sequence")[0], PaddedEngine()):
        # Mamba's reference scan is in float32 and long.
        bound = 5e-5 if family == "mamba" else 1e-5
        assert max(apart(of_engine(engine, model, collate(pairs)), expected)) < bound


@pytest.mark.parametrize("nll_scope", SCOPES)
def test_padded_when_asked_for(nll_scope: str) -> None:
    engine, note = select_engine("padded", model_of("granite"), nll_scope)
    assert engine == PaddedEngine(nll_scope, head=FusedHead(LogitTransform(0.25)))
    assert engine.name in CHOICES["engine"]
    assert note == "padded engine (asked for)"


@pytest.mark.parametrize("requested", ["auto", "shared"])
@pytest.mark.parametrize("nll_scope", SCOPES)
def test_shared_where_it_can_be(requested: str, nll_scope: str) -> None:
    engine, note = select_engine(requested, model_of("llama"), nll_scope)
    assert engine == SharedEngine(nll_scope, head=FusedHead(LogitTransform()))
    assert engine.name in CHOICES["engine"]
    assert note == "shared engine (prompts computed once, no padding; self-test passed)"


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("requested", ["auto", "padded"])
def test_the_router_loss_is_for_configs_that_ask_for_it(requested: str, asked: bool) -> None:
    model = model_of("mixtral", output_router_logits=asked)
    engine, _ = select_engine(requested, model, "sequence")
    assert isinstance(engine, SharedEngine if requested == "auto" else PaddedEngine)
    assert engine.router_loss is asked


class Strange(hf.LlamaForCausalLM):
    """Does to its logits what no fused head follows."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        outputs = super().forward(*args, **kwargs)
        outputs.logits = outputs.logits.log_softmax(-1) * 2
        return outputs


class NoHead(hf.LlamaForCausalLM):
    """Does not say which layer gives its logits."""

    def get_output_embeddings(self) -> None:
        return None


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Strange, "what the model does to its logits is neither a factor nor a soft cap"),
        (NoHead, "the model names no output layer"),
    ],
)
def test_without_a_head_to_follow_logits_are_kept(model: type[nn.Module], why: str) -> None:
    strange = model(hf.LlamaConfig(**SIZES))
    engine, note = select_engine("auto", strange, "sequence")
    assert engine == PaddedEngine()
    assert note == f"padded engine, logits kept ({why})"
    with pytest.raises(ConfigError) as caught:
        select_engine("shared", strange, "sequence")
    assert why in str(caught.value)
    assert caught.value.where == "engine"
    assert "Use engine='auto' or 'padded'." in str(caught.value)


def test_no_model_is_no_obstacle() -> None:
    engine, note = select_engine("auto", None, "sequence")
    assert engine == PaddedEngine()
    assert note == "padded engine, logits kept (the model names no output layer)"


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llama", "attention_dropout"),
        ("gpt2", "attn_pdrop"),
        ("gpt2", "resid_pdrop"),
        ("gpt2", "embd_pdrop"),
        ("opt", "dropout"),
        ("gpt_neox", "hidden_dropout"),
        ("starcoder2", "residual_dropout"),
        ("qwen3", "attention_dropout"),
    ],
)
def test_dropout_is_padded(family: str, name: str) -> None:
    model = model_of(family, **{name: 0.1}).train()
    engine, note = select_engine("auto", model, "sequence")
    assert isinstance(engine, PaddedEngine)
    assert "is on, which would treat a shared prompt as one" in note
    with pytest.raises(ConfigError, match="is on, which would treat a shared prompt as one"):
        select_engine("shared", model, "sequence")


def state_of(model: nn.Module) -> list[Any]:
    flags = [module.training for module in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    grads = [p.grad for p in model.parameters()]
    config = model.config.to_dict()
    return [flags, hooks, grads, config, model.config._attn_implementation]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("family", ["llama", "bloom", "gemma2"])
def test_the_model_is_left_as_it_was(family: str, training: bool) -> None:
    model = model_of(family).train(training)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before, random = state_of(model), torch.get_rng_state()
    select_engine("auto", model, "sequence")
    assert state_of(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_dropout_draws_no_random_numbers() -> None:
    model, before = model_of("gpt2", resid_pdrop=0.1).train(), torch.get_rng_state()
    select_engine("auto", model, "sequence")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_part_in_evaluation_mode_stays_there() -> None:
    model = model_of("llama").train()
    model.model.embed_tokens.eval()
    select_engine("auto", model, "sequence")
    assert not model.model.embed_tokens.training


@pytest.mark.parametrize("family", [*SHARED, *FALL_BACK])
def test_the_configuration_says_what_to_expect(family: str) -> None:
    config = model_of(family).config
    shared = "shared engine, if its self-test passes (prompts computed once, no padding)"
    if family in SHARED or WHY[family] == INTERFACE:  # that, only the model itself tells
        assert expect_engine(config) == shared
    else:
        assert expect_engine(config) == f"padded engine ({WHY[family]})"


def test_a_model_without_finite_numbers_is_refused_as_that() -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(3e38)
    with pytest.raises(ModelError, match="own log-probabilities are not finite"):
        select_engine("auto", model, "sequence")
