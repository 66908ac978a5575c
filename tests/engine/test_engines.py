"""Both engines against one sequence at a time in float64, with either head; nothing is leaked."""

import contextlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from orpo.engine import attention_cpu
from orpo.engine.backends import attend
from orpo.engine.fused_head import FusedHead
from orpo.engine.layout import PairLayout, PairSpan, pack_pairs
from orpo.engine.padded import PaddedEngine
from orpo.engine.shared import SharedEngine
from orpo.engine.types import Engine, EngineOutput
from orpo.objective.types import PairLogps
from orpo.setting_types import CHOICES
from tests import forked
from tests.engine.families import (
    LENGTHS,
    SHARED,
    SIZES,
    VOCABULARY,
    apart,
    by_definition,
    collate,
    exact,
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
from tests.train.small import tiny_llama

FLOAT32_INSIDE = {"cohere2": 1e-7, "mixtral": 1e-7}
"""Cohere's rotary embedding and Mixtral's router cast to float32, whatever the model's dtype."""
SCOPES = CHOICES["nll_scope"]
HEADS = {"naive": None, "fused": 1 << 30, "fused, pairs in two passes": 4 * VOCABULARY * 5}
"""Name -> bytes of logits at a time."""
SUMS = ("chosen_sum", "rejected_sum", "nll_sum")


def padded(model: Any, head: str, nll_scope: str = "sequence") -> PaddedEngine:
    budget = HEADS[head]
    if budget is None:
        return PaddedEngine(nll_scope)
    return PaddedEngine(nll_scope, head=FusedHead(prepared(model).head.transform, budget=budget))


@torch.no_grad()
def score(engine: Engine, model: nn.Module, pairs: list[Pair], pad: int = 0) -> PairLogps:
    return engine(model, collate(pairs, pad), orpo_like).logps


def close(found: PairLogps, expected: PairLogps, rtol: float = 1e-6, atol: float = 1e-6) -> None:
    for name, value in vars(expected).items():
        if value is not None:  # the oracle knows no weights
            ours = getattr(found, name)
            torch.testing.assert_close(ours, value, rtol=rtol, atol=atol, msg=name)


@pytest.mark.parametrize("nll_scope", SCOPES)
@pytest.mark.parametrize("family", SHARED)
def test_every_way_gives_the_same_loss_and_gradients(family: str, nll_scope: str) -> None:
    """In float64 nothing is left but rounding."""
    model, pairs = exact_copy(model_of(family)), random_pairs(2, LENGTHS)
    with softmax_in_float64():
        expected = by_definition(model, pairs, nll_scope)
        engine = prepared(model, nll_scope)
        for name, way in {
            "shared": engine,
            "padded, fused": PaddedEngine(nll_scope, head=engine.head),
            "padded, naive": PaddedEngine(nll_scope),
        }.items():
            found = apart(of_engine(way, model, collate(pairs)), expected)
            assert max(found) < FLOAT32_INSIDE.get(family, 1e-9), name


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "mistral"])
@settings(max_examples=15)
@given(pairs=pair_lists(), nll_scope=st.sampled_from(SCOPES), window=st.integers(3, 8))
def test_pairs_of_any_shape(family: str, pairs: list[Pair], nll_scope: str, window: int) -> None:
    plain, model = exact_twins(family, window if family == "mistral" else None)
    expected = by_definition(plain, pairs, nll_scope)
    assert max(apart(of_engine(SharedEngine(nll_scope), model, collate(pairs)), expected)) < 1e-9


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", ["llama", "gemma2", "opt", "bloom", "granite"])
def test_padded_rows_equal_the_oracle(family: str, head: str) -> None:
    model, pairs = model_of(family), random_pairs(1, LENGTHS)
    twin = exact_copy(model)
    for nll_scope in SCOPES:
        engine = padded(model, head, nll_scope)
        found = score(engine, model, pairs)
        with torch.no_grad():
            close(found, exact(twin, pairs, nll_scope), rtol=2e-6)
        prompts = [p - 1 if nll_scope == "sequence" else 0 for p, _, _ in LENGTHS]
        counts = [p + c for p, (_, c, _) in zip(prompts, LENGTHS, strict=True)]
        assert found.nll_tokens.tolist() == counts
    expected = by_definition(twin, pairs, nll_scope)
    assert max(apart(of_engine(engine, model, collate(pairs)), expected)) < 1e-5


def test_the_numbers_are_those_of_the_padded_engine() -> None:
    """Not only the loss: every sum and count, identical answers and prefixes included."""
    model = model_of("llama")
    same, longer = ([5, 6], [7, 8], [7, 8]), ([5], [7, 8], [7, 8, 9])
    pairs = [*random_pairs(3, LENGTHS), same, longer, (longer[0], longer[2], longer[1])]
    close(score(prepared(model), model, pairs), score(PaddedEngine(), model, pairs))
    nothing = collate([([], [5], [6])])  # predicts nothing, has no gradient
    plain, shared = (of_engine(e, model, nothing) for e in (PaddedEngine(), prepared(model)))
    assert shared[0] == plain[0]
    assert all(not bool(g.any()) for g in (*plain[1].values(), *shared[1].values()))


@pytest.mark.parametrize("head", HEADS)
def test_what_comes_out(head: str) -> None:
    model, batch = model_of("llama"), collate(random_pairs(2, LENGTHS))
    seen: list[dict[str, Any]] = []
    engine = padded(model, head)
    model.register_forward_pre_hook(lambda m, a, kwargs: seen.append(kwargs), with_kwargs=True)
    output = engine(model, batch, orpo_like)
    assert isinstance(output, EngineOutput)
    assert output.loss.shape == ()
    assert output.loss.requires_grad
    numbers = [value for value in vars(output.logps).values() if value is not None]
    assert not any(value.requires_grad for value in numbers)
    assert output.aux_loss is None
    torch.testing.assert_close(orpo_like(output.logps), output.loss.detach())
    (kwargs,) = seen
    assert kwargs["use_cache"] is False
    assert "output_router_logits" not in kwargs
    frozen = model_of("llama").requires_grad_(False)
    loss = padded(frozen, head)(frozen, batch, orpo_like).loss
    assert not loss.requires_grad
    torch.testing.assert_close(loss, output.loss.detach(), rtol=1e-6, atol=0)


@settings(max_examples=15)
@given(
    lengths=st.lists(st.tuples(*[st.integers(1, 12)] * 3), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
    pad=st.integers(0, 96),
    head=st.sampled_from(list(HEADS)),
)
def test_padding_and_neighbours_do_not_matter(
    lengths: list[tuple[int, int, int]], seed: int, pad: int, head: str
) -> None:
    model, pairs = model_of("llama"), random_pairs(seed, lengths)
    engine = padded(model, head)
    together = score(engine, model, pairs, pad)
    alone = [score(engine, model, [pair]) for pair in pairs]
    for name in SUMS:
        expected = torch.cat([getattr(one, name) for one in alone])
        torch.testing.assert_close(getattr(together, name), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_sums_lose_nothing(head: str) -> None:
    """A thousand terms in float32 would cost three digits; the first token is never predicted."""
    model = tiny_llama(max_position_embeddings=2048).eval()
    pairs = random_pairs(4, [(4, 1000, 10)])
    found = score(padded(model, head), model, pairs)
    with torch.no_grad():
        expected = exact(exact_copy(model), pairs)
    assert found.chosen_sum.dtype == torch.float64
    torch.testing.assert_close(found.chosen_sum, expected.chosen_sum, rtol=1e-7, atol=0)
    half, pairs = tiny_llama().to(torch.bfloat16).eval(), random_pairs(5, LENGTHS)
    with torch.no_grad():
        expected = exact(exact_copy(half), pairs)
    found = score(padded(half, head), half, pairs)
    torch.testing.assert_close(found.nll_sum, expected.nll_sum, rtol=1e-2, atol=1e-2)
    (pair,) = random_pairs(3, [(1, 4, 3)])
    without_prompt: Pair = ([], pair[0] + pair[1], pair[0] + pair[2])
    engine = padded(model, head, "completion")
    one, other = score(engine, model, [without_prompt]), score(engine, model, [pair])
    assert one.chosen_tokens.tolist() == [4]
    close(one, other)


# The rejected answer never sees the chosen one, nor another pair: not a bit of it

PAIRS = random_pairs(7, [(5, 9, 6), (12, 11, 20), (1, 4, 3)])


def leaks(engine: SharedEngine, model: nn.Module) -> bool:
    """Whether a token in the middle of the chosen answers changes what is said of the rejected."""
    changed: list[Pair] = []
    for prompt, chosen, rejected in PAIRS:
        middle = len(chosen) // 2
        other = 3 + (chosen[middle] - 2) % (VOCABULARY - 3)
        changed.append((prompt, [*chosen[:middle], other, *chosen[middle + 1 :]], rejected))
    before, after = score(engine, model, PAIRS), score(engine, model, changed)
    assert not torch.equal(before.chosen_sum, after.chosen_sum)
    return not torch.equal(before.rejected_sum, after.rejected_sum)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "gemma2", "gpt_oss"])
def test_rejected_sums_are_the_same_bits(family: str, autocast: bool) -> None:
    model = model_of(family)
    capped = family in ("gemma2", "gpt_oss")
    for backend in (None, *(() if capped else ("dense", "segmented", "tiles", "sdpa"))):
        engine = prepared(model, backend=backend)
        with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
            assert not leaks(engine, model), backend


@pytest.mark.parametrize("backend", [None, "dense", "segmented", "tiles", "sdpa"])
def test_other_pairs_are_the_same_bits(backend: str | None) -> None:
    """Whatever stands before them in the packed row."""
    model, other = model_of("llama"), random_pairs(8, [(5, 9, 6)])
    engine = prepared(model, backend=backend)
    before, after = (score(engine, model, pairs) for pairs in (PAIRS, other + PAIRS[1:]))
    for name in SUMS:
        assert torch.equal(getattr(before, name)[1:], getattr(after, name)[1:]), name
        assert not torch.equal(getattr(before, name)[:1], getattr(after, name)[:1]), name


@pytest.mark.parametrize("backend", ["dense", "segmented", "sdpa", "tiles"])
def test_a_mask_that_lets_it_see_is_noticed(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    def causal(layout: PairLayout, window: int | None = None) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda query, key: query >= key

    def whole(span: PairSpan) -> list[tuple[tuple[slice, ...], int, int]]:
        return [((slice(span.start, span.end),), 0, span.start)]

    monkeypatch.setattr(PairLayout, "sees", causal)
    monkeypatch.setattr(attention_cpu, "_two_sequences", whole)
    model = model_of("llama")
    assert leaks(prepared(model, backend=backend), model)


# In bfloat16 the shared engine is as close to the truth as the plain path is


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
    for seed in range(6):
        pairs = random_pairs(seed, [(6, 14, 12), (20, 9, 11), (2, 15, 12)])
        model, batch = llama(seed).to(dtype), collate(pairs)
        expected = by_definition(exact_copy(model), pairs)
        for errors, engine in ((plain, PaddedEngine()), (shared, prepared(model))):
            found = of_engine(engine, model, batch, autocast=dtype == torch.float32)
            errors.append(apart(found, expected))
    ours, theirs = (torch.tensor(errors).mean(0) for errors in (shared, plain))
    assert 1e-5 < theirs[0] < 1e-3  # a test of something: the plain path does lose digits
    assert 1e-3 < theirs[1] < 5e-2
    assert bool((ours < 1.5 * theirs).all())


def test_autocast_rounds_what_comes_in_and_no_score() -> None:
    """The query and key norms of some families give float32 beside a bfloat16 value."""
    batch = collate(random_pairs(0, LENGTHS))
    layout = pack_pairs(batch, "sequence").layout
    torch.manual_seed(0)
    wide = [3 * torch.randn(1, 2, layout.tokens, 8) for _ in range(3)]
    rounded = [x.bfloat16() for x in wide]
    module, asked = torch.nn.Identity(), {"scaling": 0.5}
    plain = attend(module, *rounded, layout, asked)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attend(module, *rounded, layout, asked), plain)
        assert torch.equal(attend(module, *wide[:2], rounded[2], layout, asked), plain)
        model = llama(0)  # the backward pass may run under autocast
        prepared(model)(model, batch, orpo_like).loss.backward()


@pytest.mark.slow
def test_weights_in_pieces_have_the_gradients_of_the_whole(tmp_path: Path) -> None:
    """FSDP2 with two real processes."""
    out = tmp_path / "result.json"
    run = subprocess.run(
        forked.two_ranks("tests.engine.fsdp_worker", out),
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert len(found) == 4
    assert max(found.values()) < 1e-5, found
