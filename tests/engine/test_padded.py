"""The padded engine against one sequence at a time in float64, with either head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from orpo.engine.fused_head import FusedHead
from orpo.engine.padded import PaddedEngine
from orpo.engine.types import EngineOutput
from orpo.objective.types import PairLogps
from orpo.setting_types import CHOICES
from tests.engine.families import (
    LENGTHS,
    VOCABULARY,
    apart,
    by_definition,
    collate,
    exact,
    exact_copy,
    model_of,
    of_engine,
    orpo_like,
    prepared,
    random_pairs,
)
from tests.train.oracle_fp64 import Pair
from tests.train.small import tiny_llama

FAMILIES = ["llama", "qwen2", "mistral", "gemma2", "gpt2", "opt", "bloom", "granite"]
HEADS = {"naive": None, "fused": 1 << 30, "fused, pairs in two passes": 4 * VOCABULARY * 5}
"""Name -> bytes of logits at a time."""


def engine_of(model: Any, head: str, nll_scope: str = "sequence") -> PaddedEngine:
    budget = HEADS[head]
    if budget is None:
        return PaddedEngine(nll_scope)
    transform = prepared(model).head.transform
    return PaddedEngine(nll_scope, head=FusedHead(transform, budget=budget))


@torch.no_grad()
def score(engine: PaddedEngine, model: nn.Module, pairs: list[Pair], pad: int = 0) -> PairLogps:
    return engine(model, collate(pairs, pad), orpo_like).logps


@pytest.mark.parametrize("nll_scope", CHOICES["nll_scope"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_equal_the_oracle(family: str, head: str, nll_scope: str) -> None:
    model, pairs = model_of(family), random_pairs(1, LENGTHS)
    found = score(engine_of(model, head, nll_scope), model, pairs)
    with torch.no_grad():
        expected = exact(exact_copy(model), pairs, nll_scope)
    for name, value in vars(expected).items():
        if value is not None:  # the oracle knows no weights
            torch.testing.assert_close(getattr(found, name), value, rtol=2e-6, atol=1e-6, msg=name)
    prompts = [p - 1 if nll_scope == "sequence" else 0 for p, _, _ in LENGTHS]
    assert found.nll_tokens.tolist() == [
        p + c for p, (_, c, _) in zip(prompts, LENGTHS, strict=True)
    ]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_the_oracle(family: str, head: str) -> None:
    model, pairs = model_of(family), random_pairs(2, LENGTHS)
    expected = by_definition(exact_copy(model), pairs)
    assert max(apart(of_engine(engine_of(model, head), model, collate(pairs)), expected)) < 1e-5


@pytest.mark.parametrize("head", HEADS)
def test_what_comes_out(head: str) -> None:
    model, batch = model_of("llama"), collate(random_pairs(2, LENGTHS))
    output = engine_of(model, head)(model, batch, orpo_like)
    assert isinstance(output, EngineOutput)
    assert output.loss.shape == ()
    assert output.loss.requires_grad
    numbers = [value for value in vars(output.logps).values() if value is not None]
    assert not any(value.requires_grad for value in numbers)
    assert output.aux_loss is None
    torch.testing.assert_close(orpo_like(output.logps), output.loss.detach())


@settings(max_examples=15)
@given(
    lengths=st.lists(
        st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12)),
        min_size=1,
        max_size=5,
    ),
    seed=st.integers(0, 1000),
    pad=st.integers(0, 96),
    head=st.sampled_from(list(HEADS)),
)
def test_padding_and_neighbours_do_not_matter(
    lengths: list[tuple[int, int, int]], seed: int, pad: int, head: str
) -> None:
    model, pairs = model_of("llama"), random_pairs(seed, lengths)
    engine = engine_of(model, head)
    together = score(engine, model, pairs, pad)
    alone = [score(engine, model, [pair]) for pair in pairs]
    for name in ("chosen_sum", "rejected_sum", "nll_sum"):
        expected = torch.cat([getattr(one, name) for one in alone])
        torch.testing.assert_close(getattr(together, name), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_the_first_token_of_a_sequence_is_never_predicted(head: str) -> None:
    """Not even where there is no prompt: nothing stands before it."""
    model, (pair,) = model_of("llama"), random_pairs(3, [(1, 4, 3)])
    engine = engine_of(model, head, "completion")
    without_prompt: Pair = ([], pair[0] + pair[1], pair[0] + pair[2])
    found, expected = score(engine, model, [without_prompt]), score(engine, model, [pair])
    assert found.chosen_tokens.tolist() == [4]
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(found, name), value, msg=name)


@pytest.mark.parametrize("head", HEADS)
def test_sums_over_long_answers_lose_nothing(head: str) -> None:
    """A thousand terms in float32 would cost three digits."""
    model = tiny_llama(max_position_embeddings=2048).eval()
    pairs = random_pairs(4, [(4, 1000, 10)])
    found = score(engine_of(model, head), model, pairs)
    with torch.no_grad():
        expected = exact(exact_copy(model), pairs)
    assert found.chosen_sum.dtype == torch.float64
    torch.testing.assert_close(found.chosen_sum, expected.chosen_sum, rtol=1e-7, atol=0)


@pytest.mark.parametrize("head", HEADS)
def test_weights_in_half_precision_give_float32_log_probabilities(head: str) -> None:
    model, pairs = tiny_llama().to(torch.bfloat16).eval(), random_pairs(5, LENGTHS)
    found = score(engine_of(model, head), model, pairs)
    with torch.no_grad():
        expected = exact(exact_copy(model), pairs)
    torch.testing.assert_close(found.nll_sum, expected.nll_sum, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("head", HEADS)
def test_the_cache_stays_off(head: str) -> None:
    seen: list[dict[str, Any]] = []
    model = tiny_llama().eval()
    engine = engine_of(model, head)
    model.register_forward_pre_hook(lambda m, a, kwargs: seen.append(kwargs), with_kwargs=True)
    score(engine, model, random_pairs(6, [(2, 2, 2)]))
    (kwargs,) = seen
    assert kwargs["use_cache"] is False
    assert "output_router_logits" not in kwargs


def test_a_frozen_model_gives_numbers_without_gradient() -> None:
    model, batch = model_of("llama").requires_grad_(False), collate(random_pairs(2, LENGTHS))
    losses = [engine_of(model, head)(model, batch, orpo_like).loss for head in HEADS]
    assert not any(loss.requires_grad for loss in losses)
    expected: Tensor = losses[0]
    for loss in losses[1:]:
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
