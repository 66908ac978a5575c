"""One cast where a norm ends: the same products, and nothing for models of another kind."""

from __future__ import annotations

import pytest
import torch

from orpo.engine.casts import share_casts
from tests.engine.families import (
    FAMILIES,
    LENGTHS,
    apart,
    collate,
    model_of,
    of_engine,
    prepared,
    random_pairs,
)


def test_the_forward_pass_is_the_same_bit_by_bit() -> None:
    model, ids = model_of("llama"), torch.arange(40)[None]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = model(ids).logits
        handles = share_casts(model)
        assert torch.equal(model(ids).logits, plain)
    assert len(handles) == 2 * model.config.num_hidden_layers


def test_gradients_differ_by_rounding_only() -> None:
    model, batch = model_of("llama"), collate(random_pairs(0, LENGTHS))
    engine = prepared(model)
    exact = of_engine(engine, model, batch)
    plain = of_engine(engine, model, batch, autocast=True)
    handles = share_casts(model)
    shared = of_engine(engine, model, batch, autocast=True)
    assert apart(shared, exact)[1] < 1.5 * apart(plain, exact)[1]
    assert torch.equal(torch.tensor(of_engine(engine, model, batch)[0]), torch.tensor(exact[0]))
    for handle in handles:
        handle.remove()
    assert of_engine(engine, model, batch, autocast=True)[0] == plain[0]


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "gpt2", "mixtral", "olmo3"])
def test_norms_that_other_things_read_are_left_alone(family: str) -> None:
    assert any(name.startswith(family) for name in FAMILIES)
    name = next(name for name in FAMILIES if name.startswith(family))
    assert share_casts(model_of(name)) == []
