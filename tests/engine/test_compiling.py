"""Compiled blocks: the same numbers but for rounding, and no trace afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from orpo.engine.compiling import can_compile, compile_blocks, compile_head, pays, uncompile_blocks
from orpo.engine.fused_head import FusedHead
from orpo.engine.padded import PaddedEngine
from orpo.engine.shared import SharedEngine
from tests.engine.families import (
    LENGTHS,
    apart,
    collate,
    model_of,
    of_engine,
    prepared,
    random_pairs,
    with_lora,
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("kind", ["full", "LoRA"])
def test_compiled_blocks_and_head_give_the_same_numbers(kind: str) -> None:
    if not can_compile("cpu"):
        pytest.skip("there is no compiler here")
    model = with_lora("llama") if kind == "LoRA" else model_of("llama")
    batch = collate(random_pairs(0, LENGTHS))
    engine = prepared(model)
    plain = of_engine(engine, model, batch)
    assert compile_blocks(model) == 3 * model.config.num_hidden_layers + 1
    fast = compile_head(engine)
    assert fast.head is not None
    assert fast.head.compiled
    assert max(apart(of_engine(fast, model, batch), plain)) < 1e-5
    uncompile_blocks(model)
    assert all(module._compiled_call_impl is None for module in model.modules())
    assert of_engine(engine, model, batch)[0] == plain[0]


def test_where_the_compiler_fails_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    can_compile.cache_clear()
    monkeypatch.setattr(torch, "compile", broken)
    assert not can_compile("cpu")
    can_compile.cache_clear()


def test_short_runs_are_not_worth_it() -> None:
    assert not pays(1e12)
    assert pays(1e15)


def test_a_naive_head_stays_as_it_is() -> None:
    assert compile_head(PaddedEngine()) == PaddedEngine()
    assert compile_head(SharedEngine()) == SharedEngine(head=FusedHead(compiled=True))
