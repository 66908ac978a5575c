"""The shared engine with what surrounds a model: adapters, checkpointed layers, experts."""

from typing import Any

import peft
import pytest
import torch
import transformers as hf
from torch import Tensor

from orpo.engine.padded import PaddedEngine
from orpo.engine.select import select_engine
from orpo.engine.shared import SharedEngine
from orpo.engine.types import Engine
from tests.engine.families import (
    LENGTHS,
    apart,
    collate,
    gradient,
    model_of,
    of_engine,
    orpo_like,
    prepared,
    random_pairs,
)
from tests.train.oracle_fp64 import relative_difference

pytestmark = pytest.mark.filterwarnings(  # PEFT's own
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
BATCH = collate(random_pairs(5, LENGTHS))
BODY = ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "body": {"target_modules": BODY},
    "body and head": {"target_modules": [*BODY, "lm_head"]},
    "body, head trained whole": {"target_modules": BODY, "modules_to_save": ["lm_head"]},
    "DoRA": {"target_modules": BODY, "use_dora": True},
}


def with_adapter(name: str) -> peft.PeftModel:
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, init_lora_weights=False, **ADAPTERS[name])
    model = peft.get_peft_model(model_of("llama"), config)
    assert isinstance(model, peft.PeftModel)
    return model


def checkpointed(model: Any, use_reentrant: bool) -> None:
    model.train()
    if isinstance(model, peft.PeftModel):
        model.enable_input_require_grads()
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    assert model.is_activation_checkpointing


@pytest.mark.parametrize("use_reentrant", [None, False, True])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_weight_gets_its_gradient(adapter: str, use_reentrant: bool | None) -> None:
    model = with_adapter(adapter)
    expected = of_engine(PaddedEngine(), model, BATCH)
    engine, note = select_engine("auto", model, "sequence")
    assert isinstance(engine, SharedEngine), note
    if use_reentrant is not None:
        checkpointed(model, use_reentrant)
    found = of_engine(engine, model, BATCH)
    assert max(apart(found, expected)) < 1e-5
    for name, grad in expected[1].items():
        assert torch.linalg.vector_norm(grad) > 0, name
        assert relative_difference({name: found[1][name]}, {name: grad}) < 1e-4, name
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_a_model_with_checkpointing_on_already_gives_no_warning() -> None:
    model = with_adapter("body")
    checkpointed(model, use_reentrant=True)
    assert select_engine("auto", model, "sequence")[0].name == "shared"


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2"])
def test_checkpointed_layers_follow_the_layout(family: str, use_reentrant: bool) -> None:
    model = model_of(family)
    engine = prepared(model)
    plain = of_engine(engine, model, BATCH)
    checkpointed(model, use_reentrant)
    loss, grads = of_engine(engine, model, BATCH)
    assert loss == plain[0]
    for name, grad in plain[1].items():
        assert torch.equal(grads[name], grad), name


def router_loss(engine: Engine, model: torch.nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    aux_loss = engine(model, BATCH, orpo_like).aux_loss
    assert aux_loss is not None
    aux_loss.backward()
    return aux_loss.detach(), gradient(model)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_the_router_counts_a_shared_token_twice(family: str) -> None:
    model = model_of(family, output_router_logits=True)
    naive = PaddedEngine(router_loss=True)
    expected, expected_grads = router_loss(naive, model)
    engine, note = select_engine("auto", model, "sequence")
    assert isinstance(engine, SharedEngine), note
    assert engine.router_loss
    for way in (engine, PaddedEngine(router_loss=True, head=engine.head)):
        found, grads = router_loss(way, model)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
        assert relative_difference(grads, expected_grads) < 1e-5
    assert prepared(model)(model, BATCH, orpo_like).aux_loss is None


def test_counting_a_shared_token_once_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("mixtral", output_router_logits=True)
    expected, _ = router_loss(PaddedEngine(router_loss=True), model)
    engine, _ = select_engine("shared", model, "sequence")
    monkeypatch.setattr(
        "orpo.engine.shared._times_read", lambda layout, _: torch.ones_like(layout.positions)
    )
    found, _ = router_loss(engine, model)
    assert abs(float(found / expected) - 1) > 1e-4


def test_a_prompt_adapter_falls_back() -> None:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = peft.get_peft_model(model_of("llama"), config)
    engine, note = select_engine("auto", model, "sequence")
    assert engine.name == "padded"
    assert "the adapter puts tokens before the prompt" in note
    assert isinstance(model.get_base_model(), hf.PreTrainedModel)
