"""What a step takes: measured on the model itself, by formula, and kept between steps."""

import contextlib
import functools
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
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
from orpo.engine.fused_head import FusedHead, output_layer
from orpo.engine.memory import (
    MemoryEstimate,
    available_bytes,
    estimate_memory,
    keep_freed_memory,
    most_positions,
    saved_bytes,
)
from tests.train.small import tiny_llama

LITTLE = 20_000
"""Bytes: less than what one layer saves of a trial."""
HEAD = FusedHead(budget=1 << 16)
ROOMY = MemoryEstimate(fixed=1000, per_position=10, available=10**9, device="cpu")
bfloat16 = functools.partial(torch.autocast, "cpu", torch.bfloat16)


def adam(count: int) -> int:
    return 8 * count


def live_bytes() -> int:
    """Of all tensors that Python knows of."""
    gc.collect()
    storages = {
        x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
        for x in gc.get_objects()
        if type(x) in (torch.Tensor, nn.Parameter)  # isinstance would wake lazy modules
    }
    return sum(storages.values())


def test_what_is_saved_grows_as_estimated() -> None:
    model = tiny_llama()
    estimate, layer = estimate_memory(model, HEAD, adam), output_layer(model)
    cast, small = (
        estimate_memory(model, HEAD, adam, bfloat16),
        saved_bytes(model, layer, 50, bfloat16),
    )
    for positions in (64, 300):
        grown = saved_bytes(model, layer, 50 + positions, bfloat16) - small
        assert grown / positions == pytest.approx(cast.per_position / 1.35, rel=0.02)
    assert cast.per_position < estimate.per_position  # half of it is held in half the bytes
    # Of a batch of another shape than the trials', as it is kept for the backward pass.
    kept, own = dict[int, int](), {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x.detach()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        output = model(input_ids=torch.ones(4, 80, dtype=torch.int64)).logits
    saved = sum(size for place, size in kept.items() if place not in own)
    assert saved - 2 * output.numel() < 320 * estimate.per_position


def test_the_trial_leaves_nothing_behind() -> None:
    model = tiny_llama()
    before, state = live_bytes(), torch.get_rng_state()
    estimate_memory(model, HEAD, adam, bfloat16)
    assert live_bytes() - before < LITTLE
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    kept = model(input_ids=torch.zeros(1, 50, dtype=torch.int64)).logits
    assert live_bytes() - before > LITTLE  # a graph that was kept would be seen
    del kept


def test_gradients_and_optimizer_states_are_of_what_is_trained() -> None:
    model = tiny_llama()
    every = sum(p.numel() for p in model.parameters())
    whole = estimate_memory(model, None, adam).fixed
    assert whole == pytest.approx((4 + 8) * every, rel=0.02)
    model.model.requires_grad_(False)
    assert estimate_memory(model, None, adam).fixed < whole / 2
    assert estimate_memory(tiny_llama(), None, lambda count: 2 * count).fixed < whole


@pytest.mark.parametrize("on_already", [False, True])
def test_checkpointing_keeps_little(on_already: bool) -> None:
    model = tiny_llama(num_hidden_layers=6)
    plain = estimate_memory(model, HEAD, adam)
    if on_already:
        model.activation_checkpointing_enable()
    found = estimate_memory(model, HEAD, adam, checkpointing=not on_already)
    assert found.per_position < plain.per_position / 2
    assert model.is_activation_checkpointing is on_already


def test_micro_batches_are_what_fits_and_no_more_than_is_of_use() -> None:
    for available, tokens in ((10**9, most_positions("cpu")), (1000, 1), (0, 1), (4000, 260)):
        assert replace(ROOMY, available=available).max_tokens == tokens
    assert ROOMY.needed(7) == 1070
    assert replace(ROOMY, device="cuda").max_tokens == most_positions("cuda")
    assert most_positions("cuda") > most_positions("cpu")
    assert 0 < available_bytes(torch.device("cpu")) < 2**60


# The formula of docs/scaling.md against models that take a step

TOKENS = 512
SMALL = {
    "wide": ModelShape(width=256, layers=4, mlp=704, vocabulary=4096, keys=128),
    "deep, tied": ModelShape(width=192, layers=10, mlp=512, vocabulary=8192, keys=64, tied=True),
}
LORA = LoraConfig(r=ADAPTER_RANK, target_modules="all-linear", task_type="CAUSAL_LM")


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
    saved = saved_bytes(model, output_layer(model), TOKENS, autocast)
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
@pytest.mark.parametrize(
    ("weights", "autocast"), [("full", False), ("full", True), ("lora", True), ("qlora", True)]
)
@pytest.mark.parametrize("name", SMALL)
def test_a_step_takes_what_the_formula_says(name: str, weights: Any, autocast: bool) -> None:
    shape, model = SMALL[name], model_of(SMALL[name])
    said = footprint(
        shape, weights=weights, tokens=TOKENS, checkpointing=False, autocast=autocast, logits=0
    )
    precision = bfloat16 if autocast else contextlib.nullcontext
    if weights != "full":
        model = get_peft_model(model.to(torch.bfloat16), LORA)
    if weights == "qlora":  # adapters that share no casts keep a copy for each matrix
        kept = saved_bytes(model, output_layer(model), TOKENS, precision)
        assert said.activations == pytest.approx(kept, rel=0.15)
        return
    found = measured(model, precision)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == (
        shape.total if weights == "full" else shape.adapter(ADAPTER_RANK)
    )
    head = 2 * shape.head if said.copies else 0  # which the measurement leaves to the fused head
    kept = said.copies - head + said.activations
    for part in ("weights", "gradients", "states"):
        assert getattr(said, part) == pytest.approx(found[part], rel=0.01)
    assert kept == pytest.approx(found["kept"], rel=0.15)


def test_checkpointing_keeps_one_layer_and_the_inputs_of_all() -> None:
    shape = SMALL["deep, tied"]
    model = model_of(shape)
    model.activation_checkpointing_enable()
    model.train()
    kept = saved_bytes(model, output_layer(model), TOKENS, contextlib.nullcontext)
    said, whole = (
        footprint(shape, tokens=TOKENS, checkpointing=on, autocast=False).activations
        for on in (True, False)
    )
    assert kept <= said < whole / 3


def test_wrappers_divide_what_they_say() -> None:
    one = footprint(SMALL["wide"])
    whole = {"weights", "gradients", "states", "activations"}
    for wrapper, divided in {
        "ddp": set(),
        "zero2": {"gradients", "states"},
        "zero3": {"weights", "gradients", "states"},
        "fsdp2": {"weights", "gradients", "states"},
    }.items():
        spread = footprint(SMALL["wide"], wrapper=wrapper, ranks=4)
        for part in whole:
            share = 4 if part in divided else 1
            assert getattr(spread, part) == getattr(one, part) // share, (wrapper, part)


def test_the_table_of_the_docs_is_made_by_the_formula() -> None:
    docs = Path(__file__).parents[2] / "docs" / "scaling.md"
    assert table() in docs.read_text(encoding="utf-8"), "run scripts/footprint_table.py"


# Freed memory is kept for the next step, and given back after the last one

# In a process of its own: how memory is taken depends on all that was taken before.
PROGRAM = """
import json, resource
import psutil, torch
from orpo.engine.memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    before = faults()
    taken = [torch.empty(12 * 2**20).fill_(1) for _ in range(2)]  # 48 MiB each
    held = psutil.Process().memory_info().rss
    del taken
    return faults() - before, held - psutil.Process().memory_info().rss

found = {"before": [step()]}
give_back = keep_freed_memory("cuda")  # it has its own
found["cuda"] = [step()]
give_back()
give_back = keep_freed_memory("cpu")
found["kept"] = [step() for _ in range(10)]  # it takes some until every block has its place
give_back()
found["after"] = [step()]
print(json.dumps(found))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_pages_are_taken_once_and_given_back_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor; elsewhere there is nothing to gain, and nothing is done."""
    command = [sys.executable, "-c", PROGRAM]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, list[list[int]]] = json.loads(run.stdout)
    for faults, freed in found["kept"][-2:]:
        assert faults < 100, found
        assert freed < 2**20, found
    for moment in ("before", "cuda", "after"):
        faults, freed = found[moment][-1]
        assert freed > 50 * 2**20, found
        assert faults > 35, found  # a page is 2 MiB at most
    monkeypatch.setattr(sys, "platform", "darwin")
    keep_freed_memory("cpu")()
