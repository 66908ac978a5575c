"""Getting between hidden states and logits: what a model does to them, and hooks that go again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from orpo.engine.fused_head import output_layer, probe_transform, tap
from orpo.engine.head import LogitTransform
from tests.engine.families import SHARED, SIZES, model_of

IDS = torch.tensor([[5, 6, 7]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("llama", LogitTransform()),
        ("gpt2", LogitTransform()),
        ("granite", LogitTransform(0.25)),
        ("cohere2", LogitTransform(0.25)),
        ("gemma2", LogitTransform(1.0, 3.0)),
    ],
)
def test_what_a_family_does_to_its_logits(
    family: str, expected: LogitTransform, dtype: torch.dtype
) -> None:
    model = model_of(family).to(dtype)
    layer = output_layer(model)
    assert layer is not None
    found = probe_transform(model, layer)
    assert found is not None
    assert found.scale == pytest.approx(expected.scale, rel=1e-6)
    assert (found.softcap or 0) == pytest.approx(expected.softcap or 0, rel=1e-6)


@pytest.mark.parametrize("family", ["granite", "cohere2"])
@pytest.mark.parametrize("factor", [0.0625, 8.0, 13.0])
def test_any_factor(family: str, factor: float) -> None:
    name, value = {
        "granite": ("logits_scaling", 1 / factor),
        "cohere2": ("logit_scale", factor),
    }[family]
    model = model_of(family, **{name: value})
    found = probe_transform(model, model.lm_head)
    assert found is not None
    assert found.scale == pytest.approx(factor, rel=1e-6)
    assert found.softcap is None


@pytest.mark.parametrize("cap", [1.0, 15.0, 30.0, 50.0])
def test_any_soft_cap(cap: float) -> None:
    model = model_of("gemma2", final_logit_softcapping=cap)
    found = probe_transform(model, model.lm_head)
    assert found is not None
    assert found == LogitTransform(1.0, pytest.approx(cap, rel=1e-6))


STRANGE: dict[str, Any] = {
    "a constant": lambda x: x + 1,
    "a bias for every token": lambda x: x + torch.arange(x.shape[-1]),
    "a softmax": lambda x: x.log_softmax(-1),
    "clipping": lambda x: x.clamp(-30, 30),
    "a square": lambda x: x * x.abs(),
    "nothing but positive": torch.relu,
    "the other sign": torch.neg,
    "other tokens": lambda x: x.flip(-1),
    "fewer tokens": lambda x: x[..., :-1],
    "no layer at all": torch.zeros_like,
}


@pytest.mark.parametrize("what", STRANGE)
def test_what_no_fused_head_can_follow(what: str) -> None:
    class Strange(hf.LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            outputs = super().forward(*args, **kwargs)
            outputs.logits = STRANGE[what](outputs.logits)
            return outputs

    model = Strange(hf.LlamaConfig(**SIZES)).eval()
    assert probe_transform(model, model.lm_head) is None


def test_the_probe_leaves_nothing_behind() -> None:
    model = model_of("granite")
    before = model(input_ids=IDS).logits
    probe_transform(model, model.lm_head)
    assert torch.equal(model(input_ids=IDS).logits, before)
    assert not model.lm_head._forward_hooks
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("family", SHARED)
def test_the_output_hangs_on_the_loss(family: str) -> None:
    model = model_of(family)
    layer = output_layer(model)
    assert layer is not None
    seen: list[Tensor] = []

    def score(hidden: Tensor) -> Tensor:
        seen.append(hidden)
        return layer(hidden).sum()  # the layer may be called from within

    with tap(layer, score):
        outputs = model(input_ids=IDS, use_cache=False)
    assert outputs.logits.shape == (1, 0, 97)
    assert [tuple(hidden.shape[:2]) for hidden in seen] == [(1, 3)]
    outputs.logits.sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    plain = model_of(family)
    plain(input_ids=IDS, use_cache=False).logits.sum().backward()
    assert reached == {name for name, p in plain.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_go_again(fails: bool) -> None:
    model = model_of("llama")
    before = model(input_ids=IDS).logits

    def score(hidden: Tensor) -> Tensor:
        if fails:
            raise ValueError("planted")
        return hidden.sum()

    def once() -> None:
        with tap(model.lm_head, score):
            model(input_ids=IDS)

    if fails:
        with pytest.raises(ValueError, match="planted"):
            once()
    else:
        once()
    assert not model.lm_head._forward_hooks
    assert not model.lm_head._forward_pre_hooks
    assert torch.equal(model(input_ids=IDS).logits, before)


def test_a_layer_is_tapped_once_per_pass() -> None:
    model = model_of("llama")
    seen: list[Tensor] = []

    def score(hidden: Tensor) -> Tensor:
        seen.append(hidden)
        return hidden.sum()

    with tap(model.lm_head, score):
        for _ in range(2):
            assert model(input_ids=IDS).logits.shape == (1, 0, 97)
    assert len(seen) == 2


def test_the_layer_is_found_within_wrappers() -> None:
    model = model_of("llama")
    assert output_layer(model) is model.lm_head
    assert output_layer(nn.Linear(2, 2)) is None
    assert output_layer(model.model) is None
