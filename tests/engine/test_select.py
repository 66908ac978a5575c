"""Which engine is chosen and what is said about it; the self-test catches what is not right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from orpo import ConfigError
from orpo.engine import attention as attention_module
from orpo.engine import attention_cpu, backends
from orpo.engine import self_test as self_test_module
from orpo.engine import shared as shared_module
from orpo.engine.fused_head import FusedHead
from orpo.engine.head import LogitTransform
from orpo.engine.layout import PackedPairs, PairLayout, PairSpan
from orpo.engine.padded import PaddedEngine
from orpo.engine.select import expect_engine, select_engine
from orpo.engine.self_test import self_test
from orpo.engine.shared import SharedEngine
from orpo.errors import ModelError
from orpo.setting_types import CHOICES
from tests.engine.emulated import break_, no_gradient, window_off_by, without
from tests.engine.families import (
    FALL_BACK,
    LENGTHS,
    SHARED,
    SIZES,
    apart,
    by_definition,
    collate,
    exact_copy,
    model_of,
    of_engine,
    prepared,
    random_pairs,
)
from tests.train.small import tiny_llama

INTERFACE = "its attention does not go through transformers' attention interface"
WHY = {
    "qwen3_next": "layers of kind linear_attention",
    "lfm2": "layers of kind conv",
    "mamba": "layers of kind linear_attention",
    "falcon": INTERFACE,
    "bloom": INTERFACE,
    "mpt": INTERFACE,
    "gptj": INTERFACE,
    "llama4": "layers of kind chunked_attention",
}


@pytest.mark.parametrize("family", FALL_BACK)
def test_what_cannot_be_shared_is_padded(family: str) -> None:
    """And the fused head is kept: it asks nothing of the layers."""
    model, pairs = model_of(family), random_pairs(1, LENGTHS)
    expected = by_definition(exact_copy(model), pairs)
    before = model.config._attn_implementation
    engine, note = select_engine("auto", model, "sequence")
    assert engine == PaddedEngine(head=FusedHead(LogitTransform()))
    assert note == f"padded engine ({WHY[family]})"
    assert model.config._attn_implementation == before
    with pytest.raises(ConfigError, match="the shared engine cannot be used") as caught:
        select_engine("shared", model, "sequence")
    assert WHY[family] in str(caught.value)
    for way in (engine, PaddedEngine()):
        # Mamba's reference scan is in float32 and long.
        bound = 5e-5 if family == "mamba" else 1e-5
        assert max(apart(of_engine(way, model, collate(pairs)), expected)) < bound
    if WHY[family] != INTERFACE:  # that, only the model itself tells
        assert expect_engine(model.config) == note


@pytest.mark.parametrize("family", SHARED)
def test_what_can_be_shared_is_shared(family: str) -> None:
    """Each way passes its self-test."""
    model = model_of(family)
    before = expect_engine(model.config)
    assert before == "shared engine, if its self-test passes (prompts computed once, no padding)"
    engine, note = select_engine("auto", model, "sequence")
    assert isinstance(engine, SharedEngine)
    assert engine.name in CHOICES["engine"]
    assert note == "shared engine (prompts computed once, no padding; self-test passed)"
    assert self_test(model, PaddedEngine(head=engine.head)) is None
    assert self_test(model, PaddedEngine()) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2", "cohere2"])
def test_what_is_right_passes_in_every_dtype(family: str, dtype: torch.dtype) -> None:
    model = model_of(family).to(dtype)
    assert self_test(model, prepared(model)) is None


@pytest.mark.parametrize("nll_scope", CHOICES["nll_scope"])
def test_what_was_asked_for(nll_scope: str) -> None:
    engine, note = select_engine("padded", model_of("granite"), nll_scope)
    assert engine == PaddedEngine(nll_scope, head=FusedHead(LogitTransform(0.25)))
    assert engine.name in CHOICES["engine"]
    assert note == "padded engine (asked for)"
    engine, note = select_engine("shared", model_of("llama"), nll_scope)
    assert engine == SharedEngine(nll_scope, head=FusedHead(LogitTransform()))
    engine, note = select_engine("auto", None, nll_scope)  # no model is no obstacle
    assert engine == PaddedEngine(nll_scope)
    assert note == "padded engine, logits kept (the model names no output layer)"


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("requested", ["auto", "padded"])
def test_the_router_loss_is_for_configs_that_ask_for_it(requested: str, asked: bool) -> None:
    model = model_of("mixtral", output_router_logits=asked)
    engine, _ = select_engine(requested, model, "sequence")
    assert isinstance(engine, SharedEngine if requested == "auto" else PaddedEngine)
    assert engine.router_loss is asked


class Strange(hf.LlamaForCausalLM):
    """Does to its logits what no fused head follows."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        outputs = super().forward(*args, **kwargs)
        outputs.logits = outputs.logits.log_softmax(-1) * 2
        return outputs


class NoHead(hf.LlamaForCausalLM):
    """Does not say which layer gives its logits."""

    def get_output_embeddings(self) -> None:
        return None


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Strange, "what the model does to its logits is neither a factor nor a soft cap"),
        (NoHead, "the model names no output layer"),
    ],
)
def test_without_a_head_to_follow_logits_are_kept(model: type[nn.Module], why: str) -> None:
    strange = model(hf.LlamaConfig(**SIZES))
    engine, note = select_engine("auto", strange, "sequence")
    assert engine == PaddedEngine()
    assert note == f"padded engine, logits kept ({why})"
    with pytest.raises(ConfigError) as caught:
        select_engine("shared", strange, "sequence")
    assert why in str(caught.value)
    assert caught.value.where == "engine"
    assert "Use engine='auto' or 'padded'." in str(caught.value)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llama", "attention_dropout"),
        ("gpt2", "attn_pdrop"),
        ("gpt2", "resid_pdrop"),
        ("gpt2", "embd_pdrop"),
        ("opt", "dropout"),
        ("gpt_neox", "hidden_dropout"),
        ("starcoder2", "residual_dropout"),
        ("qwen3", "attention_dropout"),
    ],
)
def test_dropout_is_padded(family: str, name: str) -> None:
    model, random = model_of(family, **{name: 0.1}).train(), torch.get_rng_state()
    engine, note = select_engine("auto", model, "sequence")
    assert isinstance(engine, PaddedEngine)
    assert "is on, which would treat a shared prompt as one" in note
    assert torch.equal(torch.get_rng_state(), random)
    with pytest.raises(ConfigError, match="is on, which would treat a shared prompt as one"):
        select_engine("shared", model, "sequence")


def state_of(model: nn.Module) -> list[Any]:
    flags = [module.training for module in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    grads = [p.grad for p in model.parameters()]
    config = model.config.to_dict()
    return [flags, hooks, grads, config, model.config._attn_implementation]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("family", ["llama", "bloom", "gemma2"])
def test_the_model_is_left_as_it_was(family: str, training: bool) -> None:
    model = model_of(family).train(training)
    model.get_input_embeddings().eval()  # a part in evaluation mode stays there
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before, random = state_of(model), torch.get_rng_state()
    select_engine("auto", model, "sequence")
    assert state_of(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_a_model_without_finite_numbers_is_refused_as_that() -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(3e38)
    with pytest.raises(ModelError, match="own log-probabilities are not finite"):
        select_engine("auto", model, "sequence")


# The self-test

Plant = Callable[[pytest.MonkeyPatch], None]


def rejected_sees_chosen(patch: pytest.MonkeyPatch) -> None:
    def whole(span: PairSpan) -> list[tuple[tuple[slice, ...], int, int]]:
        return [((slice(span.start, span.end),), 0, span.start)]

    def causal(layout: PairLayout, window: int | None = None) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda query, key: query >= key

    patch.setattr(attention_cpu, "_two_sequences", whole)
    patch.setattr(PairLayout, "sees", causal)


def pairs_see_each_other(patch: pytest.MonkeyPatch) -> None:
    def one_pair(layout: PairLayout, window: int | None = None) -> Tensor:
        seen = mask(layout, window)
        seen[layout.spans[1].start :, : layout.spans[0].prefix] = True
        return seen

    mask = PairLayout.mask
    patch.setattr(PairLayout, "mask", one_pair)
    patch.setattr(backends, "choose_backend", lambda *_: "dense")


def positions_go_on(patch: pytest.MonkeyPatch) -> None:
    pack = shared_module.pack_pairs

    def counting(*args: Any) -> PackedPairs:
        packed = pack(*args)
        return replace(packed, position_ids=torch.arange(packed.layout.tokens)[None])

    patch.setattr(shared_module, "pack_pairs", counting)


def rejected_starts_late(patch: pytest.MonkeyPatch) -> None:
    pack = shared_module.pack_pairs

    def late(*args: Any) -> PackedPairs:
        packed = pack(*args)
        positions = packed.position_ids.clone()
        for span in packed.layout.spans:
            positions[0, span.turn : span.end] += span.chosen
        return replace(packed, position_ids=positions)

    patch.setattr(shared_module, "pack_pairs", late)


def breaks(wrong: backends.Backend, *names: str) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        for name in names or ("tiles",):
            break_(patch, name, wrong)

    return plant


def ignores(feature: str) -> Plant:
    return breaks(without(feature), "tiles", "segmented")


def first_hidden_state_predicts(patch: pytest.MonkeyPatch) -> None:
    pack = shared_module.pack_pairs

    def wrong(*args: Any) -> PackedPairs:
        packed = pack(*args)
        source = packed.predictions.source.clone()
        for span in packed.layout.spans:  # R's first token from C's last, not from P's
            source[source == span.fork - 1] = span.turn - 1
        return replace(packed, predictions=replace(packed.predictions, source=source))

    patch.setattr(shared_module, "pack_pairs", wrong)


def skips_a_layer(patch: pytest.MonkeyPatch) -> None:
    attend = attention_module.attend

    def skipping(module: Any, query: Tensor, *args: Any) -> Tensor:
        found = attend(module, query, *args)
        return found * 0 if module.layer_idx == 1 else found

    patch.setattr(attention_module, "attend", skipping)


def broken(*args: Any, **asked: Any) -> Tensor:
    raise RuntimeError("planted\nand more lines")


gradient_goes_missing = breaks(no_gradient(0))
MISTAKES: dict[str, tuple[str, Plant]] = {
    "R sees C": ("llama", rejected_sees_chosen),
    "R sees C, soft-capped": ("gemma2", rejected_sees_chosen),
    "pairs see each other": ("llama", pairs_see_each_other),
    "positions go on": ("llama", positions_go_on),
    "R starts at |P| + |C|": ("llama", rejected_starts_late),
    "R starts late, learned positions": ("gpt2", rejected_starts_late),
    "no window": ("mistral", ignores("window")),
    "a window one too wide": ("mistral", breaks(window_off_by(1))),
    "a window one too narrow": ("mistral", breaks(window_off_by(-1))),
    "no window in one of two layers": ("gemma3", ignores("window")),
    "no soft cap": ("gemma2", ignores("softcap")),
    "no sinks": ("gpt_oss", ignores("sinks")),
    "the wrong hidden state": ("llama", first_hidden_state_predicts),
    "a layer is skipped": ("llama", skips_a_layer),
    "no gradient of the queries": ("llama", gradient_goes_missing),
    "an exception": ("llama", breaks(broken)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_planted_mistakes_are_caught(monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    family, plant = MISTAKES[mistake]
    model = model_of(family)
    before, random = model.config._attn_implementation, torch.get_rng_state()
    plant(monkeypatch)
    assert self_test(model, prepared(model)) is not None
    engine, note = select_engine("auto", model, "sequence")
    assert isinstance(engine, PaddedEngine)
    assert engine.head is not None
    assert note.startswith("padded engine (self-test: ")
    assert "\n" not in note
    assert model.config._attn_implementation == before
    assert torch.equal(torch.get_rng_state(), random)
    with pytest.raises(ConfigError, match="the shared engine cannot be used: self-test: "):
        select_engine("shared", model, "sequence")
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("family", ["granite", "cohere2", "gemma2"])
def test_a_head_that_ignores_the_transform_is_caught(
    monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    model = model_of(family)
    with torch.no_grad():
        model.lm_head.weight.mul_(5)  # logits so large that it matters
    for engine in (SharedEngine(head=FusedHead()), PaddedEngine(head=FusedHead())):
        reason = self_test(model, engine)
        assert reason is not None
        assert reason.startswith("self-test: ")
    monkeypatch.setattr("orpo.engine.select.probe_transform", lambda *_: FusedHead().transform)
    chosen, note = select_engine("auto", model, "sequence")
    assert chosen == PaddedEngine()  # neither engine with that head; logits are kept
    assert note.startswith("padded engine, logits kept (self-test: ")


def test_short_models_and_those_with_nothing_to_train_are_tried() -> None:
    for positions in (16, 24, 128):
        model = model_of("gpt2", n_positions=positions)
        assert select_engine("auto", model, "sequence")[0].name == "shared"
    model = model_of("llama").requires_grad_(False)
    assert select_engine("auto", model, "sequence")[0].name == "shared"


@pytest.mark.parametrize("window", [1, 3, 40, 100])
def test_the_prompt_is_longer_than_the_window(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    model = model_of("mistral", sliding_window=window)
    assert self_test(model, SharedEngine()) is None
    ignores("window")(monkeypatch)
    assert self_test(model, SharedEngine()) is not None


@pytest.mark.parametrize("family", ["mistral", "starcoder2"])
def test_of_long_texts_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    """A window of 4,096 tokens in a model of billions would not fit otherwise."""
    model = model_of(family, sliding_window=600, max_position_embeddings=1024)
    seen: list[tuple[int, bool]] = []
    logits: list[int] = []

    class Noting(SharedEngine):
        def __call__(self, model: Any, batch: Any, objective: Any) -> Any:
            longest = int(batch["chosen_attention_mask"].sum(1).max())
            seen.append((longest, torch.is_grad_enabled()))
            return super().__call__(model, batch, objective)

    handle = model.lm_head.register_forward_hook(lambda *a: logits.append(a[2].shape[-2]))
    assert self_test(model, Noting()) is None
    handle.remove()
    assert seen == [(603 + 9, False), (12 + 9, True)]
    assert max(logits) <= 12 + 9
    ignores("window")(monkeypatch)
    reason = self_test(model, SharedEngine())
    assert reason is not None
    assert reason.startswith("self-test: chosen_logps ")


def test_gradients_are_compared_beside_long_texts_and_of_large_parameters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = [model_of("mistral", sliding_window=600, max_position_embeddings=1024)]
    monkeypatch.setattr(self_test_module, "_SMALL", 0)
    models.append(model_of("llama"))
    assert self_test(models[1], SharedEngine()) is None
    gradient_goes_missing(monkeypatch)
    for model in models:
        reason = self_test(model, SharedEngine())
        assert reason is not None
        assert reason.startswith("self-test: gradients ")


def test_not_a_transformers_model() -> None:
    class Bare(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model_of("llama")

        def get_output_embeddings(self) -> torch.nn.Module:
            return self.inner.lm_head

        def forward(self, **inputs: Any) -> Any:
            return self.inner(**inputs)

    engine, note = select_engine("auto", Bare(), "sequence")
    assert isinstance(engine, PaddedEngine)
    assert note == "padded engine (not a transformers model)"
