"""Positions that change with the longest sequence of a pass: every sequence gets its own.

The oracle puts each sequence alone through a copy of the model that has seen nothing, in float64.
"""

import copy
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from orpo.engine.look import look_through, make_steady
from orpo.engine.microbatch import cut
from orpo.engine.noise import noise_columns
from orpo.engine.padded import ApartEngine, PaddedEngine
from orpo.engine.probing import Border, borders_of, forget_lengths
from orpo.engine.select import select_engine
from orpo.engine.self_test import self_test
from orpo.engine.shared import SharedEngine
from orpo.engine.types import Engine
from orpo.objective.types import PairLogps
from tests.engine.families import (
    HEADS,
    SIZES,
    apart,
    collate,
    exact_copy,
    gradient,
    orpo_like,
    random_pairs,
)
from tests.train.oracle_fp64 import Pair, sequence_logps

EDGE = 24
LONG: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.3, 1.7, 2.0],
    "long_factor": [2.0, 5.0, 9.0, 14.0],
    "factor": 8.0,
    "original_max_position_embeddings": EDGE,
}
DYNAMIC: dict[str, Any] = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
_YARN = {"factor": 8.0, "rope_theta": 10000.0, "original_max_position_embeddings": EDGE}
STATIC: dict[str, dict[str, Any]] = {
    "yarn": {"rope_type": "yarn", **_YARN},
    "llama3": {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, **_YARN},
}
SHORT: dict[str, Any] = {**SIZES, "max_position_embeddings": EDGE}
MIXTURE: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
MOE = {**LONG, "short_mscale": 1.1, "long_mscale": 1.4}
MODELS: dict[str, Callable[[], hf.PretrainedConfig]] = {
    "phi3, longrope": lambda: hf.Phi3Config(
        **SIZES, rope_parameters=LONG, original_max_position_embeddings=EDGE
    ),
    "llama, longrope": lambda: hf.LlamaConfig(**SIZES, rope_parameters=LONG),
    "phimoe, longrope": lambda: hf.PhimoeConfig(
        **SIZES, **MIXTURE, rope_parameters=MOE, original_max_position_embeddings=EDGE
    ),
    "llama, dynamic": lambda: hf.LlamaConfig(**SHORT, rope_parameters=DYNAMIC),
    "qwen3, dynamic": lambda: hf.Qwen3Config(
        **{**HEADS, "max_position_embeddings": EDGE}, rope_parameters=DYNAMIC
    ),
    "gemma3, one kind of layers": lambda: hf.Gemma3TextConfig(
        **{**HEADS, "max_position_embeddings": EDGE},
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=8,
        query_pre_attn_scalar=8,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
            "full_attention": DYNAMIC,
        },
    ),
}
LENGTHS = [(30, 8, 5), (5, 4, 8), (20, 10, 3), (22, 1, 9), (60, 10, 20)]
"""On one side, on the other, and across, by either answer."""


def model_of(name: str) -> hf.PreTrainedModel:
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(MODELS[name]())
    with torch.no_grad():
        for weight_name, weight in model.named_parameters():
            if "q_norm" not in weight_name and "k_norm" not in weight_name:
                weight.mul_(3)
    twin = exact_copy(model.eval())
    make_steady(twin, look_through(twin).random)
    return twin


def alone(build: Callable[[], nn.Module], pairs: list[Pair]) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradient of `orpo_like` by definition."""
    copies = []

    def sums(ids: list[int]) -> Tensor:
        copies.append(build())
        return sequence_logps(copies[-1], ids)

    loss = torch.zeros((), dtype=torch.float64)
    for prompt, chosen, rejected in pairs:
        first = len(prompt) - 1
        good, bad = sums(prompt + chosen), sums(prompt + rejected)
        one, other, tokens = (torch.tensor([len(x)]) for x in (chosen, rejected, good))
        of_answers = (good[first:].sum()[None], one, bad[first:].sum()[None], other)
        loss = loss + orpo_like(PairLogps(*of_answers, -good.sum()[None], tokens))
    loss.backward()
    grads = [gradient(one) for one in copies]
    return float(loss.detach()), {n: torch.stack([g[n] for g in grads]).sum(0) for n in grads[0]}


def dealt(
    engine: Engine, model: nn.Module, parts: list[dict[str, Tensor]]
) -> tuple[float, dict[str, Tensor]]:
    """The same by an engine, over micro-batches."""
    model.zero_grad()
    total = 0.0
    for part in parts:
        loss = engine(model, part, orpo_like).loss
        loss.backward()
        total += float(loss.detach())
    return total, gradient(model)


@functools.cache
def expected_of(name: str) -> tuple[list[Pair], tuple[float, dict[str, Tensor]]]:
    pairs = random_pairs(3, LENGTHS)
    return pairs, alone(lambda: model_of(name), pairs)


PADDED = [("phi3, longrope", "padded"), ("llama, dynamic", "padded")]


@pytest.mark.parametrize(("name", "requested"), [*((name, "auto") for name in MODELS), *PADDED])
def test_every_way_of_dealing_pairs_out_has_the_gradient_of_each_sequence_alone(
    name: str, requested: str
) -> None:
    model, (pairs, expected) = model_of(name), expected_of(name)
    engine, note = select_engine(requested, model, "sequence", training=True)
    assert isinstance(engine, ApartEngine)
    assert engine.name == ("shared" if requested == "auto" else "padded")
    assert f"on either side of {EDGE} tokens go apart" in note
    whole = collate(pairs)
    ways = {
        "together": [whole],
        "one by one": [collate([pair]) for pair in pairs],
        "by tokens": cut([collate(pairs[::-1])], engine, 120),
    }
    for way, parts in ways.items():
        assert max(apart(dealt(engine, model, parts), expected)) < 1e-6, way


@pytest.mark.parametrize("name", [name for name in MODELS if "phimoe" not in name])
def test_without_it_the_neighbours_matter(name: str) -> None:
    """And the self-test, which mixes lengths, says so."""
    model, (pairs, expected) = model_of(name), expected_of(name)
    apart_engine, _ = select_engine("auto", model, "sequence")
    assert isinstance(apart_engine, ApartEngine)
    kinds: list[Any] = [SharedEngine, PaddedEngine]
    for kind in kinds:
        engine = kind(head=apart_engine.head)
        assert max(apart(dealt(engine, model, [collate(pairs)]), expected)) > 1e-3
        forget_lengths(model)
        reason = self_test(model, engine)
        assert reason is not None
        assert "apart from one sequence at a time" in reason


def test_borders_are_found_by_kind_of_layers() -> None:
    assert borders_of(model_of("phi3, longrope")) == (Border(EDGE),)
    assert borders_of(model_of("gemma3, one kind of layers")) == (Border(EDGE, graded=True),)
    for scaling in STATIC.values():  # which stay together
        torch.manual_seed(0)
        model = hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES, rope_parameters=scaling)).eval()
        assert borders_of(model) == ()
        engine, _ = select_engine("auto", model, "sequence", training=True)
        assert isinstance(engine, SharedEngine)


def test_a_model_is_left_as_if_it_had_seen_nothing() -> None:
    model = model_of("llama, dynamic")
    ids = torch.arange(3, 60)[None]
    before = copy.deepcopy(model)(input_ids=ids[:, :30]).logits
    engine, _ = select_engine("auto", model, "sequence")
    engine(model, collate(random_pairs(1, [(60, 3, 3)])), orpo_like)
    engine.release(model)
    assert torch.equal(model(input_ids=ids[:, :30]).logits, before)


def test_numbers_of_pairs_keep_their_order_and_need_no_gradient() -> None:
    model, pairs = model_of("phi3, longrope"), random_pairs(3, LENGTHS)
    engine, _ = select_engine("auto", model, "completion")
    with torch.no_grad():
        together = engine(model, collate(pairs), orpo_like)
        single = [engine(model, collate([pair]), orpo_like) for pair in pairs]
    assert not together.loss.requires_grad
    for name in ("chosen_sum", "rejected_sum", "nll_sum", "chosen_tokens", "nll_tokens"):
        found = getattr(together.logps, name).double()
        one_by_one = torch.cat([getattr(one.logps, name) for one in single]).double()
        torch.testing.assert_close(found, one_by_one, rtol=1e-9, atol=0)
    assert float(together.loss) == pytest.approx(sum(float(one.loss) for one in single))


class Crowd(nn.Module):
    """A norm over everything that goes through at once, as in no model that is known by name."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight / x.square().mean().sqrt()


def crowded() -> hf.PreTrainedModel:
    torch.manual_seed(0)
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES))
    model.model.norm = Crowd()
    return model.double().eval()


@pytest.mark.parametrize("kept", [False, True])
def test_an_unknown_dependence_ends_with_one_sequence_at_a_time(kept: bool) -> None:
    model = crowded()
    engine, note = select_engine("auto", model, "sequence", training=True)
    assert isinstance(engine, ApartEngine)
    assert engine.alone
    assert note.startswith("padded engine, one sequence at a time (self-test: ")
    if kept:
        engine = replace(engine, inner=PaddedEngine())
    pairs = random_pairs(3, LENGTHS)
    expected = alone(crowded, pairs)
    for parts in ([collate(pairs)], [collate([pair]) for pair in pairs]):
        assert max(apart(dealt(engine, model, parts), expected)) < 1e-6


@pytest.mark.parametrize("name", ["phi3, longrope", "llama, dynamic"])
def test_noise_is_that_of_the_pair_on_every_side(name: str) -> None:
    model, pairs = model_of(name), random_pairs(3, LENGTHS)
    engine, _ = select_engine("auto", model, "sequence")

    def noisy(some: list[int]) -> dict[str, Tensor]:
        batch = collate([pairs[i] for i in some])
        return {**batch, **noise_columns(5.0, 1, 2, torch.tensor(some))}

    together = dealt(engine, model, [noisy([*range(len(pairs))])])
    single = dealt(engine, model, [noisy([i]) for i in range(len(pairs))])
    assert max(apart(together, single)) < 1e-9
    assert max(apart(together, dealt(engine, model, [collate(pairs)]))) > 1e-3
