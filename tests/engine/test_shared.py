"""The shared engine against padded rows, and against one sequence at a time in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo.engine.padded import PaddedEngine
from orpo.engine.select import select_engine
from orpo.engine.shared import SharedEngine
from orpo.setting_types import CHOICES
from tests.engine.families import (
    LENGTHS,
    SHARED,
    apart,
    by_definition,
    collate,
    exact_copy,
    exact_twins,
    model_of,
    of_engine,
    orpo_like,
    pair_lists,
    prepared,
    random_pairs,
    softmax_in_float64,
)
from tests.train.oracle_fp64 import Pair

FLOAT32_INSIDE = {"cohere2": 1e-7, "mixtral": 1e-7}
"""Cohere's rotary embedding and Mixtral's router cast to float32, whatever the model's dtype."""


@pytest.mark.parametrize("family", SHARED)
def test_the_family_is_shared(family: str) -> None:
    engine, note = select_engine("auto", model_of(family), "sequence")
    assert isinstance(engine, SharedEngine)
    assert engine.name == "shared"
    assert note == "shared engine (prompts computed once, no padding; self-test passed)"


@pytest.mark.parametrize("nll_scope", CHOICES["nll_scope"])
@pytest.mark.parametrize("family", SHARED)
def test_every_way_gives_the_same_loss_and_gradients(family: str, nll_scope: str) -> None:
    model, pairs = model_of(family), random_pairs(1, LENGTHS)
    expected = by_definition(exact_copy(model), pairs, nll_scope)
    engine = prepared(model, nll_scope)
    for name, way in {
        "shared": engine,
        "padded, fused": PaddedEngine(nll_scope, head=engine.head),
        "padded, naive": PaddedEngine(nll_scope),
    }.items():
        assert max(apart(of_engine(way, model, collate(pairs)), expected)) < 1e-5, name


@pytest.mark.parametrize("nll_scope", CHOICES["nll_scope"])
@pytest.mark.parametrize("family", SHARED)
def test_in_float64_nothing_is_left_but_rounding(family: str, nll_scope: str) -> None:
    model, pairs = exact_copy(model_of(family)), random_pairs(2, LENGTHS)
    with softmax_in_float64():
        expected = by_definition(model, pairs, nll_scope)
        engine = prepared(model, nll_scope)
        difference = apart(of_engine(engine, model, collate(pairs)), expected)
    assert max(difference) < FLOAT32_INSIDE.get(family, 1e-9)


def rounding_apart(family: str, pairs: list[Pair], nll_scope: str, window: int | None) -> float:
    plain, model = exact_twins(family, window)
    expected = by_definition(plain, pairs, nll_scope)
    found = of_engine(SharedEngine(nll_scope), model, collate(pairs))
    return max(apart(found, expected))


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@settings(max_examples=20)
@given(pairs=pair_lists(), nll_scope=st.sampled_from(CHOICES["nll_scope"]))
def test_pairs_of_any_shape(family: str, pairs: list[Pair], nll_scope: str) -> None:
    assert rounding_apart(family, pairs, nll_scope, None) < 1e-9


@settings(max_examples=40)
@given(
    pairs=pair_lists(), nll_scope=st.sampled_from(CHOICES["nll_scope"]), window=st.integers(3, 8)
)
def test_pairs_of_any_shape_with_a_window(pairs: list[Pair], nll_scope: str, window: int) -> None:
    assert rounding_apart("mistral", pairs, nll_scope, window) < 1e-9


def test_a_batch_that_predicts_nothing_has_no_gradient() -> None:
    model, batch = model_of("llama"), collate([([], [5], [6])])
    plain = of_engine(PaddedEngine(), model, batch)
    shared = of_engine(prepared(model), model, batch)
    assert shared[0] == plain[0]
    assert all(not bool(g.any()) for g in (*plain[1].values(), *shared[1].values()))


def test_the_numbers_are_those_of_the_padded_engine() -> None:
    """Not only the loss: every sum and count, identical answers and prefixes included."""
    model = model_of("llama")
    same, longer = ([5, 6], [7, 8], [7, 8]), ([5], [7, 8], [7, 8, 9])
    batch = collate([*random_pairs(3, LENGTHS), same, longer, (longer[0], longer[2], longer[1])])
    with torch.no_grad():
        ours = prepared(model)(model, batch, orpo_like).logps
        theirs = PaddedEngine()(model, batch, orpo_like).logps
    for name, expected in vars(theirs).items():
        torch.testing.assert_close(getattr(ours, name), expected, rtol=1e-6, atol=1e-6, msg=name)


def test_positions_count_the_prompt_once() -> None:
    assert SharedEngine().positions(10, 3, 4) == 17
    assert PaddedEngine().positions(10, 3, 4) == 28
    assert not SharedEngine().pads
    assert PaddedEngine().pads
