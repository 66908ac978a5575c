"""An attention kernel is tried before it is trusted; one that fails is left out for the next.

The kernels are emulated, and a processor is made to offer them: what they compute on a GPU is not
tested here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from orpo import ConfigError
from orpo.engine import PaddedEngine, SharedEngine, backends, select_engine
from orpo.engine import select as select_module
from orpo.engine.backends import Features, watched_backends
from tests.engine.emulated import emulate_kernels
from tests.engine.families import collate, model_of, orpo_like, random_pairs

BF16 = functools.partial(torch.autocast, "cpu", torch.bfloat16)
KERNELS = frozenset({"flash_attn", "varlen"})
PASSED = "shared engine (prompts computed once, no padding; self-test passed; attention by "


def offered(query: Tensor, features: Features) -> list[str]:
    plain, half = features.softcap is None, query.dtype == torch.bfloat16
    able = {"flash_attn": half, "varlen": half and plain, "tiles": plain, "segmented": True}
    return [name for name, there in able.items() if there]


@pytest.fixture(autouse=True)
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate_kernels(monkeypatch)
    monkeypatch.setattr(select_module, "kernels_of", lambda device: KERNELS)
    monkeypatch.setattr(backends, "candidates", offered)


def break_(patch: pytest.MonkeyPatch, name: str, wrong: Callable[..., Tensor]) -> None:
    right = backends.BACKENDS[name]
    patch.setitem(backends.BACKENDS, name, lambda *args, **asked: wrong(right, *args, **asked))


def missing(*_args: Any, **_asked: Any) -> Tensor:
    raise ImportError("undefined symbol: planted\nand more lines")


def no_window(right: Callable[..., Tensor], *args: Any, **asked: Any) -> Tensor:
    return right(*args, **{**asked, "window": None})


def no_gradient(right: Callable[..., Tensor], query: Tensor, *args: Any, **asked: Any) -> Tensor:
    return right(query.detach(), *args, **asked)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_the_first_kernel_is_used_if_it_is_right(family: str) -> None:
    model = model_of(family)
    engine, note = select_engine("auto", model, "sequence", BF16)
    assert isinstance(engine, SharedEngine)
    assert engine.avoid == frozenset()
    assert note == PASSED + "flash_attn)"
    with watched_backends() as used, BF16():
        engine(model, collate(random_pairs(1, [(4, 3, 2)])), orpo_like)
    assert used == {"flash_attn"}


@pytest.mark.parametrize(
    ("mistake", "why"),
    [
        (missing, "undefined symbol: planted"),
        (no_window, " apart from one sequence at a time"),
        (no_gradient, "gradients "),
    ],
)
def test_a_kernel_that_fails_gives_way_to_the_next(
    monkeypatch: pytest.MonkeyPatch, mistake: Callable[..., Tensor], why: str
) -> None:
    model = model_of("mistral")
    break_(monkeypatch, "flash_attn", mistake)
    engine, note = select_engine("shared", model, "sequence", BF16)
    assert isinstance(engine, SharedEngine)
    assert engine.avoid == {"flash_attn"}
    assert note.startswith(PASSED + "varlen; without flash_attn, self-test: ")
    assert why in note
    assert "\n" not in note
    with watched_backends() as used, BF16():
        engine(model, collate(random_pairs(1, [(4, 3, 2)])), orpo_like)
    assert used == {"varlen"}


def test_without_any_kernel_there_is_still_the_shared_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in KERNELS:
        break_(monkeypatch, name, no_window)
    engine, note = select_engine("auto", model_of("mistral"), "sequence", BF16)
    assert isinstance(engine, SharedEngine)
    assert engine.avoid == KERNELS
    assert note.startswith(PASSED + "tiles; without flash_attn, ")
    assert "; without varlen, " in note


def test_a_soft_cap_goes_past_the_kernel_that_knows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    break_(monkeypatch, "flash_attn", missing)
    _, note = select_engine("auto", model_of("gemma2"), "sequence", BF16)
    assert note.startswith(PASSED + "segmented; without flash_attn, ")


def test_kernels_are_not_tried_where_the_layout_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong without them is not their fault."""
    called: list[str] = []
    for name in ("tiles", "segmented"):
        break_(monkeypatch, name, no_window)
    for name in KERNELS:
        break_(monkeypatch, name, lambda right, *_, name=name, **__: called.append(name))
    engine, note = select_engine("auto", model_of("mistral"), "sequence", BF16)
    assert isinstance(engine, PaddedEngine)
    assert note.startswith("padded engine (self-test: chosen_logps ")
    assert called == []


def test_what_fails_in_mixed_precision_alone_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong_in_half(right: Callable[..., Tensor], query: Tensor, *args: Any, **asked: Any) -> Any:
        found = right(query, *args, **asked)
        return found * 3 if query.dtype == torch.bfloat16 else found

    for name in (*KERNELS, "tiles"):
        break_(monkeypatch, name, wrong_in_half)
    engine, note = select_engine("auto", model_of("llama"), "sequence", BF16)
    assert isinstance(engine, PaddedEngine)
    assert note.startswith("padded engine (self-test: ")
    with pytest.raises(ConfigError, match="the shared engine cannot be used: self-test: "):
        select_engine("shared", model_of("llama"), "sequence", BF16)


def test_the_model_is_left_as_it_was() -> None:
    model = model_of("llama")
    before = model.config._attn_implementation
    select_engine("auto", model, "sequence", BF16)
    assert model.config._attn_implementation == before
    assert all(p.grad is None for p in model.parameters())
