"""In bfloat16 the shared engine is as close to the truth as the plain path is."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

from orpo.engine.backends import attend
from orpo.engine.layout import pack_pairs
from orpo.engine.padded import PaddedEngine
from tests.engine.families import (
    SIZES,
    apart,
    by_definition,
    collate,
    exact_copy,
    of_engine,
    orpo_like,
    prepared,
    random_pairs,
)

LENGTHS = [(6, 14, 12), (20, 9, 11), (2, 15, 12)]
SEEDS = range(6)


def llama(seed: int) -> hf.LlamaForCausalLM:
    torch.manual_seed(seed)
    config = {**SIZES, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**config)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["autocast", "weights"])
def test_no_worse_than_the_plain_path(dtype: torch.dtype) -> None:
    """Errors of loss and gradient against float64 with the same weights, over the seeds."""
    shared, plain = [], []
    for seed in SEEDS:
        model, pairs = llama(seed).to(dtype), random_pairs(seed, LENGTHS)
        expected = by_definition(exact_copy(model), pairs)
        batch, autocast = collate(pairs), dtype == torch.float32
        for errors, engine in ((plain, PaddedEngine()), (shared, prepared(model))):
            errors.append(apart(of_engine(engine, model, batch, autocast=autocast), expected))
    ours, theirs = (torch.tensor(errors).mean(0) for errors in (shared, plain))
    assert 1e-5 < theirs[0] < 1e-3  # a test of something: the plain path does lose digits
    assert 1e-3 < theirs[1] < 5e-2
    assert bool((ours < 1.5 * theirs).all())


def test_the_backward_pass_may_run_under_autocast() -> None:
    model, batch = llama(0), collate(random_pairs(0, LENGTHS))
    engine = prepared(model)
    with torch.autocast("cpu", torch.bfloat16):
        engine(model, batch, orpo_like).loss.backward()


def test_autocast_rounds_what_comes_in_and_no_score() -> None:
    """The query and key norms of some families give float32 beside a bfloat16 value."""
    layout = pack_pairs(collate(random_pairs(0, LENGTHS)), "sequence").layout
    torch.manual_seed(0)
    exact = [3 * torch.randn(1, 2, layout.tokens, 8) for _ in range(3)]
    rounded = [x.bfloat16() for x in exact]
    module, settings = torch.nn.Identity(), {"scaling": 0.5}
    plain = attend(module, *rounded, layout, settings)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attend(module, *rounded, layout, settings), plain)
        assert torch.equal(attend(module, *exact[:2], rounded[2], layout, settings), plain)
