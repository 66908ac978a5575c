"""The rejected answer never sees the chosen one: not a bit of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from orpo.engine import attention_cpu as attention_tiles
from orpo.engine.layout import PairLayout, PairSpan
from orpo.engine.shared import SharedEngine
from tests.engine.families import (
    VOCABULARY,
    collate,
    model_of,
    orpo_like,
    prepared,
    random_pairs,
)
from tests.train.oracle_fp64 import Pair

PAIRS = random_pairs(7, [(5, 9, 6), (12, 11, 20), (1, 4, 3)])


def changed(pairs: list[Pair]) -> list[Pair]:
    """The same pairs, but for one token in the middle of every chosen answer."""
    result = []
    for prompt, chosen, rejected in pairs:
        middle = len(chosen) // 2
        other = 3 + (chosen[middle] - 2) % (VOCABULARY - 3)
        assert other != chosen[middle]
        result.append((prompt, [*chosen[:middle], other, *chosen[middle + 1 :]], rejected))
    return result


def leaks(engine: SharedEngine, model: torch.nn.Module) -> bool:
    """Whether a change of the chosen answers alone changes what is said of the rejected ones."""
    with torch.no_grad():
        before, after = (
            engine(model, collate(pairs), orpo_like).logps for pairs in (PAIRS, changed(PAIRS))
        )
    assert not torch.equal(before.chosen_sum, after.chosen_sum)
    return not torch.equal(before.rejected_sum, after.rejected_sum)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("backend", [None, "dense", "segmented", "tiles", "sdpa"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_rejected_sums_are_the_same_bits(family: str, backend: str | None, autocast: bool) -> None:
    model = model_of(family)
    engine = prepared(model, backend=backend)
    with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
        assert not leaks(engine, model)


@pytest.mark.parametrize("backend", [None, "dense", "segmented", "tiles", "sdpa"])
def test_other_pairs_are_the_same_bits(backend: str | None) -> None:
    """Whatever stands before them in the packed row."""
    model, other = model_of("llama"), random_pairs(8, [(5, 9, 6)])
    engine = prepared(model, backend=backend)
    with torch.no_grad():
        before, after = (
            engine(model, collate(pairs), orpo_like).logps for pairs in (PAIRS, other + PAIRS[1:])
        )
    for name in ("chosen_sum", "rejected_sum", "nll_sum"):
        assert torch.equal(getattr(before, name)[1:], getattr(after, name)[1:]), name
        assert not torch.equal(getattr(before, name)[:1], getattr(after, name)[:1]), name


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss"])
def test_soft_caps_and_sinks_keep_them_apart_too(family: str) -> None:
    model = model_of(family)
    assert not leaks(prepared(model), model)


@pytest.mark.parametrize("backend", ["dense", "segmented", "sdpa"])
def test_a_mask_that_lets_it_see_is_noticed(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    def causal(layout: PairLayout, window: int | None = None) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda query, key: query >= key

    monkeypatch.setattr(PairLayout, "sees", causal)
    model = model_of("llama")
    assert leaks(prepared(model, backend=backend), model)


def test_tiles_that_let_it_see_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(span: PairSpan) -> list[tuple[tuple[slice, ...], int, int]]:
        return [((slice(span.start, span.end),), 0, span.start)]

    monkeypatch.setattr(attention_tiles, "_two_sequences", whole)
    model = model_of("llama")
    assert leaks(prepared(model, backend="tiles"), model)
