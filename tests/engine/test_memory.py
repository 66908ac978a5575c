"""What a position costs, measured on the model itself, and what follows for micro-batches."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from orpo.engine.fused_head import FusedHead, output_layer
from orpo.engine.memory import (
    MemoryEstimate,
    _saved_bytes,
    available_bytes,
    estimate_memory,
    most_positions,
)
from tests.train.small import tiny_llama

LITTLE = 20_000
"""Bytes: less than what one layer saves of a trial."""
HEAD = FusedHead(budget=1 << 16)
ROOMY = MemoryEstimate(fixed=1000, per_position=10, available=10**9, device="cpu")


def adam(count: int) -> int:
    return 8 * count


def bfloat16() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def live_bytes() -> int:
    """Of all tensors that Python knows of."""
    gc.collect()
    storages = {
        x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
        for x in gc.get_objects()
        if type(x) in (torch.Tensor, nn.Parameter)  # isinstance would wake lazy modules
    }
    return sum(storages.values())


@pytest.mark.parametrize("positions", [64, 300])
def test_what_is_saved_grows_as_estimated(positions: int) -> None:
    model = tiny_llama()
    estimate = estimate_memory(model, HEAD, adam)
    layer = output_layer(model)
    small = _saved_bytes(model, layer, 50, bfloat16)
    large = _saved_bytes(model, layer, 50 + positions, bfloat16)
    cast = estimate_memory(model, HEAD, adam, bfloat16)
    assert (large - small) / positions == pytest.approx(cast.per_position / 1.35, rel=0.02)
    assert cast.per_position < estimate.per_position  # half of it is held in half the bytes


def test_the_trial_leaves_nothing_behind() -> None:
    model = tiny_llama()
    before, state = live_bytes(), torch.get_rng_state()
    estimate_memory(model, HEAD, adam, bfloat16)
    assert live_bytes() - before < LITTLE
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


def test_a_graph_that_was_kept_would_be_seen() -> None:
    model = tiny_llama()
    before = live_bytes()
    kept = model(input_ids=torch.zeros(1, 50, dtype=torch.int64)).logits
    assert live_bytes() - before > LITTLE
    del kept


def test_gradients_and_optimizer_states_are_of_what_is_trained() -> None:
    model = tiny_llama()
    every = sum(p.numel() for p in model.parameters())
    whole = estimate_memory(model, None, adam).fixed
    assert whole == pytest.approx((4 + 8) * every, rel=0.02)
    for parameter in model.model.parameters():
        parameter.requires_grad_(False)
    assert estimate_memory(model, None, adam).fixed < whole / 2
    assert estimate_memory(tiny_llama(), None, lambda count: 2 * count).fixed < whole


@pytest.mark.parametrize("switch", ["asked for", "on already"])
def test_checkpointing_keeps_little(switch: str) -> None:
    model = tiny_llama(num_hidden_layers=6)
    plain = estimate_memory(model, HEAD, adam)
    if switch == "on already":
        for module in model.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = True
    found = estimate_memory(model, HEAD, adam, checkpointing=switch == "asked for")
    assert found.per_position < plain.per_position / 2
    if switch == "on already":
        assert model.model.gradient_checkpointing


@pytest.mark.parametrize(
    ("available", "tokens"),
    [(10**9, most_positions("cpu")), (1000, 1), (0, 1), (4000, 260)],
)
def test_micro_batches_are_what_fits_and_no_more_than_is_of_use(
    available: int, tokens: int
) -> None:
    assert replace(ROOMY, available=available).max_tokens == tokens
    assert ROOMY.needed(7) == 1070


def test_an_accelerator_takes_more_at_once() -> None:
    assert replace(ROOMY, device="cuda").max_tokens == most_positions("cuda")
    assert most_positions("cuda") > most_positions("cpu")


def test_there_is_some_memory() -> None:
    assert 0 < available_bytes(torch.device("cpu")) < 2**60


def test_a_step_stays_within_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that a pass saves, of a batch of another shape than the trial's."""
    model = tiny_llama(num_hidden_layers=4)
    estimate = estimate_memory(model, HEAD, adam)
    saved = measure(lambda: model(input_ids=torch.ones(4, 80, dtype=torch.int64)).logits, model)
    logits = 4 * 320 * model.config.vocab_size * 2
    assert saved - logits < 320 * estimate.per_position


def measure(run: Callable[[], torch.Tensor], model: nn.Module) -> int:
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return x.detach()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        output = run()
    assert output is not None
    return sum(kept.values())
