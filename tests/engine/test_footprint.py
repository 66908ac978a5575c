"""The formula of docs/scaling.md against models that take a step, and the table made from it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from scripts.footprint_table import table
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from orpo.engine.compiling import share_casts
from orpo.engine.footprint import ADAPTER_RANK, ModelShape, footprint
from orpo.engine.fused_head import output_layer
from orpo.engine.memory import _saved_bytes

TOKENS = 512
SMALL = {
    "wide": ModelShape(width=256, layers=4, mlp=704, vocabulary=4096, keys=128),
    "deep, tied": ModelShape(width=192, layers=10, mlp=512, vocabulary=8192, keys=64, tied=True),
}


def model_of(shape: ModelShape) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.mlp,
        vocab_size=shape.vocabulary,
        num_attention_heads=shape.width // 32,
        num_key_value_heads=shape.keys // 32,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=1024,
    )
    return LlamaForCausalLM(config)


def measured(model: nn.Module, autocast: Callable[[], Any]) -> dict[str, int]:
    """Bytes of the tensors that a step leaves and of those that its forward pass keeps."""
    share_casts(model)  # as every run does
    saved = _saved_bytes(model, output_layer(model), TOKENS, autocast)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    with autocast():
        model(input_ids=torch.arange(64)[None]).logits.float().square().mean().backward()
    optimizer.step()
    states = [s for of in optimizer.state.values() for s in of.values() if s.numel() > 1]
    return {
        "weights": sum(p.nbytes for p in model.parameters()),
        "gradients": sum(p.grad.nbytes for p in trained if p.grad is not None),
        "states": sum(s.nbytes for s in states),
        "kept": saved,
    }


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("weights", ["full", "lora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16 autocast"])
@pytest.mark.parametrize("name", SMALL)
def test_a_step_takes_what_the_formula_says(name: str, precision: str, weights: Any) -> None:
    shape, model = SMALL[name], model_of(SMALL[name])
    autocast: Callable[[], Any] = contextlib.nullcontext
    if precision != "fp32":
        autocast = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
    if weights == "lora":
        if precision == "fp32":
            pytest.skip("adapters train on weights in bf16")
        lora = LoraConfig(r=ADAPTER_RANK, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model.to(torch.bfloat16), lora)
    found = measured(model, autocast)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == (
        shape.total if weights == "full" else shape.adapter(ADAPTER_RANK)
    )
    said = footprint(
        shape,
        weights=weights,
        tokens=TOKENS,
        checkpointing=False,
        autocast=precision != "fp32",
        logits=0,
    )
    head = 2 * shape.head if said.copies else 0  # which the measurement leaves to the fused head
    kept = said.copies - head + said.activations
    print(name, precision, weights, found, said)
    assert said.weights == pytest.approx(found["weights"], rel=0.01)
    assert said.gradients == pytest.approx(found["gradients"], rel=0.01)
    assert said.states == pytest.approx(found["states"], rel=0.01)
    assert kept == pytest.approx(found["kept"], rel=0.15)
    parts = said.weights + said.gradients + said.states + kept
    assert parts == pytest.approx(sum(found.values()), rel=0.15)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", SMALL)
def test_adapters_that_share_no_casts_keep_a_copy_for_each_matrix(name: str) -> None:
    """As those on matrices in 4 bits."""
    shape = SMALL[name]
    lora = LoraConfig(r=ADAPTER_RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model_of(shape).to(torch.bfloat16), lora)
    autocast = functools.partial(torch.autocast, "cpu", torch.bfloat16)
    kept = _saved_bytes(model, output_layer(model), TOKENS, autocast)
    said = footprint(shape, weights="qlora", tokens=TOKENS, checkpointing=False, logits=0)
    assert said.activations == pytest.approx(kept, rel=0.15)


def test_checkpointing_keeps_one_layer_and_the_inputs_of_all() -> None:
    shape = SMALL["deep, tied"]
    model = model_of(shape)
    model.activation_checkpointing_enable()
    model.train()
    kept = _saved_bytes(model, output_layer(model), TOKENS, contextlib.nullcontext)
    said = footprint(shape, tokens=TOKENS, checkpointing=True, autocast=False).activations
    whole = footprint(shape, tokens=TOKENS, checkpointing=False, autocast=False).activations
    one = whole - footprint(shape, tokens=TOKENS, checkpointing=True, autocast=False).activations
    assert one > 0
    assert kept <= said < whole / 3


def test_wrappers_divide_what_they_say() -> None:
    shape = SMALL["wide"]
    one = footprint(shape)
    ddp, zero2 = (
        footprint(shape, wrapper="ddp", ranks=4),
        footprint(shape, wrapper="zero2", ranks=4),
    )
    assert (ddp.weights, ddp.gradients, ddp.states) == (one.weights, one.gradients, one.states)
    assert (zero2.weights, zero2.states) == (one.weights, one.states // 4)
    for wrapper in ("zero3", "fsdp2"):
        spread = footprint(shape, wrapper=wrapper, ranks=4)
        assert spread.weights == one.weights // 4
        assert spread.gradients == one.gradients // 4
        assert spread.states == one.states // 4
        assert spread.activations == one.activations


def test_the_table_of_the_docs_is_made_by_the_formula() -> None:
    docs = Path(__file__).parents[2] / "docs" / "scaling.md"
    assert table() in docs.read_text(encoding="utf-8"), "run scripts/footprint_table.py"
