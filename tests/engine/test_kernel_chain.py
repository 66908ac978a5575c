"""An attention kernel is tried before it is trusted; one that fails is left out for the next.

The kernels are emulated, and a processor is made to offer them: what they compute on a GPU is not
tested here.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from orpo import ConfigError, ORPOConfig
from orpo.engine import attention as attention_trial
from orpo.engine import backends
from orpo.engine import select as select_module
from orpo.engine.attention import try_kernels
from orpo.engine.backends import (
    KERNELS,
    AttentionCall,
    Backend,
    Features,
    kernels_of,
    watched_attention,
)
from orpo.engine.padded import PaddedEngine
from orpo.engine.select import select_engine
from orpo.engine.shared import SharedEngine
from orpo.train.parallel import agreed_engine
from tests.engine.emulated import (
    break_,
    emulate_kernels,
    no_gradient,
    window_off_by,
    without,
)
from tests.engine.families import collate, model_of, orpo_like, random_pairs

BF16 = torch.bfloat16
CPU = torch.device("cpu")
PASSED = "shared engine (prompts computed once, no padding; self-test passed; attention by "


def offered(query: Tensor, features: Features) -> list[str]:
    plain, half = features.softcap is None, query.dtype == BF16
    able = {"flash_attn": half, "varlen": half and plain, "tiles": plain, "segmented": True}
    return [
        name
        for name, there in able.items()
        if (there and features.sinks is None) or name == "segmented"
    ]


@pytest.fixture(autouse=True)
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate_kernels(monkeypatch)
    for module in (select_module, attention_trial):
        monkeypatch.setattr(module, "kernels_of", lambda device: KERNELS)
    monkeypatch.setattr(backends, "candidates", offered)


def missing(*_args: Any, **_asked: Any) -> Tensor:
    raise ImportError("undefined symbol: planted\nand more lines")


def other_scale(right: Backend, *args: Any, scale: float, **asked: Any) -> Tensor:
    return right(*args, scale=scale * 1.2, **asked)


class _StopsInBackward(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: Any, *_above: Tensor) -> Tensor:
        raise RuntimeError("planted in the backward pass")


def no_backward(right: Backend, *args: Any, **asked: Any) -> Tensor:
    found: Tensor = _StopsInBackward.apply(right(*args, **asked))  # type: ignore[no-untyped-call]
    return found


def used_by(engine: Any, model: Any) -> set[str]:
    with watched_attention() as calls, torch.autocast("cpu", BF16):
        engine(model, collate(random_pairs(1, [(4, 3, 2)])), orpo_like)
    return {call.backend for call in calls}


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_the_first_kernel_is_used_if_it_is_right(family: str) -> None:
    model, random = model_of(family), torch.get_rng_state()
    before = model.config._attn_implementation
    engine, note = select_engine("auto", model, "sequence", CPU, BF16)
    assert model.config._attn_implementation == before
    assert torch.equal(torch.get_rng_state(), random)
    assert isinstance(engine, SharedEngine)
    assert engine.avoid == frozenset()
    assert note == PASSED + "flash_attn)"
    assert used_by(engine, model) == {"flash_attn"}


@pytest.mark.parametrize(
    ("family", "mistake", "why"),
    [
        ("llama", missing, "undefined symbol: planted"),
        ("llama", no_backward, "planted in the backward pass"),
        ("llama", other_scale, "its output "),
        ("llama", no_gradient(0), "its gradient of Q 1 apart"),
        ("llama", no_gradient(1), "its gradient of K 1 apart"),
        ("llama", no_gradient(2), "its gradient of V 1 apart"),
        ("mistral", without("window"), "its output "),
        ("mistral", window_off_by(1), "its output "),
        ("mistral", window_off_by(-1), "its output "),
    ],
)
def test_a_kernel_that_fails_gives_way_to_the_next(
    monkeypatch: pytest.MonkeyPatch, family: str, mistake: Backend, why: str
) -> None:
    model = model_of(family)
    break_(monkeypatch, "flash_attn", mistake)
    engine, note = select_engine("shared", model, "sequence", CPU, BF16)
    assert isinstance(engine, SharedEngine)
    assert engine.avoid == {"flash_attn"}
    assert note.startswith(PASSED + "varlen; without flash_attn: " + why)
    assert "\n" not in note
    assert used_by(engine, model) == {"varlen"}


@pytest.mark.parametrize(
    ("asked", "mistake", "next_one"),
    [
        *(
            ({"window": window}, window_off_by(off), "varlen")
            for window in (8, 4096)
            for off in (1, -1)
        ),
        ({"softcap": 0.5}, without("softcap"), "segmented"),
        ({"softcap": 50.0}, without("softcap"), "segmented"),
    ],
)
def test_a_small_mistake_is_seen_in_half_precision(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], mistake: Backend, next_one: str
) -> None:
    """However long the window (one key of 4,096 would not be), however high the cap."""
    call = AttentionCall("tiles", 4, 2, 64, 64, torch.float32, 0.125, **asked)
    assert try_kernels({call}, CPU, BF16) == ({"flash_attn"}, {})
    break_(monkeypatch, "flash_attn", mistake)
    used, failed = try_kernels({call}, CPU, BF16)
    assert used == {next_one}
    assert set(failed) == {"flash_attn"}


def test_layers_that_differ_are_tried_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails for one layer is left out for all of them, and what they get then is tried."""
    plain = AttentionCall("tiles", 4, 2, 16, 16, torch.float32, 0.25)
    calls = {plain, AttentionCall("tiles", 4, 2, 16, 16, torch.float32, 0.25, window=100)}
    break_(monkeypatch, "flash_attn", without("window"))
    break_(monkeypatch, "varlen", missing)
    used, failed = try_kernels(calls, CPU, BF16)
    assert used == {"tiles"}
    assert set(failed) == {"flash_attn", "varlen"}


def test_sinks_have_no_kernel_to_try() -> None:
    call = AttentionCall("segmented", 4, 2, 16, 16, torch.float32, 0.25, sinks=True)
    assert try_kernels({call}, CPU, BF16) == ({"segmented"}, {})


def test_the_precision_of_the_weights_is_tried_where_no_other_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("flash_attn", "varlen"):
        break_(monkeypatch, name, missing)
    _, note = select_engine("auto", model_of("llama"), "sequence")
    assert note == PASSED + "tiles)"
    _, note = select_engine("auto", model_of("llama").to(BF16), "sequence")
    assert note.startswith(PASSED + "tiles; without flash_attn: ")
    assert "; without varlen: " in note
    _, note = select_engine("auto", model_of("gemma2"), "sequence", CPU, BF16)
    assert note.startswith(PASSED + "segmented; without flash_attn: ")  # varlen knows no soft cap


def test_kernels_are_not_tried_where_the_layout_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong without them is not their fault."""
    called: list[str] = []
    for name in ("tiles", "segmented"):
        break_(monkeypatch, name, without("window"))
    for name in ("flash_attn", "varlen"):
        break_(monkeypatch, name, lambda *_, name=name, **__: called.append(name))
    engine, note = select_engine("auto", model_of("mistral"), "sequence", CPU, BF16)
    assert isinstance(engine, PaddedEngine)
    assert note.startswith("padded engine (self-test: chosen_logps ")
    assert called == []
    with pytest.raises(ConfigError, match="the shared engine cannot be used: self-test: "):
        select_engine("shared", model_of("mistral"), "sequence", CPU, BF16)


def test_where_kernels_may_run() -> None:
    assert kernels_of(torch.device("cuda", 1)) == KERNELS
    assert kernels_of(CPU) == frozenset()
    assert kernels_of(torch.device("mps")) == frozenset()


@pytest.mark.parametrize("dtype", [BF16, None])
def test_a_run_tries_them_where_and_how_it_will_multiply(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dtype: torch.dtype | None
) -> None:
    """Also where the model is still elsewhere, as under FSDP."""
    tried: list[tuple[torch.device, torch.dtype | None]] = []

    def noting(calls: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
        tried.append((device, dtype))
        return {"tiles"}, {"flash_attn": "planted"}

    monkeypatch.setattr(select_module, "try_kernels", noting)
    args = ORPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to=[], bf16=dtype is BF16)
    engine, notes = agreed_engine(args, model_of("llama"))
    assert tried == [(args.device, dtype)]
    assert notes == [PASSED + "tiles; without flash_attn: planted)"]
    assert isinstance(engine, SharedEngine)
    assert engine.avoid == {"flash_attn"}
