"""The fused head against the naive one and automatic differentiation, in float64."""

from __future__ import annotations

import functools
from typing import Any

import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from orpo.engine import head as head_products
from orpo.engine.fused_head import FusedHead, _Work
from orpo.engine.head import LogitTransform, product_of, sum_pairs, token_logps
from orpo.engine.layout import Predictions, pack_pairs
from orpo.engine.padded import PaddedEngine
from orpo.engine.types import Engine
from orpo.objective.types import PairLogps
from tests.engine.families import (
    VOCABULARY,
    collate,
    model_of,
    orpo_like,
    prepared,
    random_pairs,
)

WIDTH = 16
PREDICTIONS = pack_pairs(
    collate(random_pairs(1, [(3, 9, 4), (1, 1, 1), (6, 2, 20), (4, 0, 0), (2, 5, 5)])), "sequence"
).predictions
TOKENS = int(PREDICTIONS.source.max()) + 1
TRANSFORMS = {
    "none": LogitTransform(),
    "scale": LogitTransform(0.3),
    "soft cap": LogitTransform(softcap=2.0),
    "scale and soft cap": LogitTransform(1.7, 2.0),
}
LAYERS = ("no bias", "bias", "frozen", "bias alone", "LoRA", "frozen weight, LoRA and bias")


def make_layer(kind: str) -> nn.Module:
    torch.manual_seed(2)
    layer: nn.Module = nn.Linear(WIDTH, VOCABULARY, bias="bias" in kind)
    if "LoRA" in kind:
        config = peft.LoraConfig(target_modules=["head"], r=3, init_lora_weights=False)
        layer = peft.inject_adapter_in_model(config, nn.ModuleDict({"head": layer}))["head"]
    if kind == "frozen":
        layer.requires_grad_(False)
    elif kind == "bias alone":
        layer.weight.requires_grad_(False)
    return layer.double()


def hidden_states() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    states = 2 * torch.randn(1, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    return states.requires_grad_()


def naive(transform: LogitTransform, layer: nn.Module, hidden: Tensor) -> tuple[Tensor, PairLogps]:
    logits = layer(hidden) * transform.scale
    if transform.softcap is not None:
        logits = transform.softcap * torch.tanh(logits / transform.softcap)
    logps = sum_pairs(token_logps(logits, PREDICTIONS), PREDICTIONS)
    return orpo_like(logps), logps.detached()


def fused(
    transform: LogitTransform, layer: nn.Module, hidden: Tensor, rows: int = 1000
) -> tuple[Tensor, PairLogps]:
    head = FusedHead(transform, budget=rows * VOCABULARY * 8)
    assert head.rows(layer, hidden) == rows
    return head(layer, hidden, PREDICTIONS, orpo_like)


def everything(head: Any, transform: LogitTransform, kind: str, factor: float) -> dict[str, Tensor]:
    """Loss, sums, counts, and all gradients."""
    layer, hidden = make_layer(kind), hidden_states()
    loss, logps = head(transform, layer, hidden)
    (loss * factor).backward()
    assert hidden.grad is not None
    grads = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), "hidden": hidden.grad, **sums(logps), **grads}


def sums(logps: PairLogps) -> dict[str, Tensor]:
    """Sums and counts; the pairs' weights only pass through."""
    return {
        name: value for name, value in vars(logps).items() if value is not None and name != "weight"
    }


def farthest(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest difference, relative to the largest number of its kind."""
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert ours[name].dtype == expected.dtype, name
    return max(
        float((ours[n] - theirs[n]).abs().max() / theirs[n].abs().max().clamp(min=1e-9))
        for n in theirs
    )


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 20, 1000])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("kind", LAYERS)
def test_equals_the_naive_head(kind: str, transform: str, rows: int) -> None:
    expected = everything(naive, TRANSFORMS[transform], kind, 1.0)
    found = everything(functools.partial(fused, rows=rows), TRANSFORMS[transform], kind, 1.0)
    assert farthest(found, expected) < 1e-12


@pytest.mark.parametrize("factor", [0.37, -2.0, 0.0])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_factor_of_the_loss_reaches_the_gradients(kind: str, factor: float) -> None:
    transform = TRANSFORMS["scale and soft cap"]
    expected = everything(naive, transform, kind, factor)
    assert farthest(everything(fused, transform, kind, factor), expected) < 1e-12


def test_gradients_add_up_over_passes() -> None:
    layer, hidden = make_layer("bias"), hidden_states()
    for _ in range(2):
        fused(LogitTransform(), layer, hidden)[0].backward()
    once = everything(naive, LogitTransform(), "bias", 2.0)
    torch.testing.assert_close(layer.weight.grad, once["weight"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(hidden.grad, once["hidden"], rtol=1e-12, atol=1e-12)


def test_a_tied_embedding_gets_both_gradients() -> None:
    ids = torch.randint(0, VOCABULARY, (1, TOKENS), generator=torch.Generator().manual_seed(4))
    grads = []
    for head in (naive, fused):
        layer = make_layer("no bias")
        hidden = nn.functional.embedding(ids, layer.weight).tanh()
        head(LogitTransform(), layer, hidden)[0].backward()
        grads.append(layer.weight.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", LAYERS)
def test_without_gradient_the_numbers_are_the_same(kind: str) -> None:
    layer, transform = make_layer(kind), TRANSFORMS["soft cap"]
    expected = everything(naive, transform, kind, 1.0)
    with torch.no_grad():
        loss, logps = fused(transform, layer, hidden_states(), rows=3)
    assert not loss.requires_grad
    found = {"loss": loss, **sums(logps)}
    assert farthest(found, {name: expected[name] for name in found}) < 1e-12
    layer.requires_grad_(False)
    frozen, _ = fused(transform, layer, hidden_states().detach(), rows=3)
    assert not frozen.requires_grad
    torch.testing.assert_close(frozen, loss, rtol=1e-13, atol=0)


@pytest.mark.parametrize("kind", ["no bias", "frozen", "bias alone"])
def test_a_frozen_weight_costs_no_product(kind: str) -> None:
    layer, hidden = make_layer(kind), hidden_states()
    product = product_of(layer, LogitTransform(), hidden)
    with Largest() as seen:
        _Work(product, PREDICTIONS, orpo_like, 1000, 1000).run(hidden.detach()[0])
    gradients = product.gradients()
    assert [g is not None for g in gradients] == [p.requires_grad for p in product.parameters()]
    assert ((VOCABULARY, WIDTH) in seen.made) == (kind == "no bias")


counts = st.lists(st.integers(0, 40), min_size=1, max_size=20)


def predictions_of(counted: list[int]) -> Predictions:
    bounds = [0]
    for count in counted:
        bounds.append(bounds[-1] + count)
    index = torch.arange(bounds[-1])
    return Predictions(index, index, torch.ones(bounds[-1], 3).bool(), tuple(bounds))


@given(counted=counts, rows=st.integers(1, 100), enough=st.integers(1, 100))
def test_groups_hold_every_pair_once(counted: list[int], rows: int, enough: int) -> None:
    work = _Work(None, predictions_of(counted), orpo_like, rows, enough)  # type: ignore[arg-type]
    groups = list(work.groups())
    assert [pair for first, last in groups for pair in range(first, last)] == [*range(len(counted))]
    for first, last in groups:
        assert first < last
        assert last == first + 1 or sum(counted[first:last]) <= rows
        assert sum(counted[first : last - 1]) < enough


@given(counted=counts, data=st.data())
def test_some_of_the_predictions(counted: list[int], data: st.DataObject) -> None:
    whole = predictions_of(counted)
    first = data.draw(st.integers(0, len(counted) - 1))
    last = data.draw(st.integers(first + 1, len(counted)))
    part = whole.of(first, last)
    assert part.pairs == last - first
    assert part.source.tolist() == [*range(sum(counted[:first]), sum(counted[:last]))]
    expected = [i for i, count in enumerate(counted[first:last]) for _ in range(count)]
    assert part.pair_index().tolist() == expected


def caught(kind: str = "bias", transform: str = "scale and soft cap", rows: int = 1000) -> bool:
    expected = everything(naive, TRANSFORMS[transform], kind, 1.0)
    found = everything(functools.partial(fused, rows=rows), TRANSFORMS[transform], kind, 1.0)
    return farthest(found, expected) > 1e-6


def test_planted_mistakes_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not caught()
    chain = LogitTransform.chain
    with monkeypatch.context() as patch:
        patch.setattr(LogitTransform, "chain", lambda t, grad, y: -chain(t, grad, y))
        assert caught()
    with monkeypatch.context() as patch:
        patch.setattr(LogitTransform, "chain", lambda t, grad, y: grad)
        assert caught()
    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "scatter_add", lambda self, *_: self)  # p without its one-hot
        assert caught()
    with monkeypatch.context() as patch:
        patch.setattr("orpo.engine.fused_head._coefficients", _unweighted)
        assert caught()
    with monkeypatch.context() as patch:
        patch.setattr(_Work, "groups", lambda self: iter([(1, self.predictions.pairs)]))
        with pytest.raises((AssertionError, RuntimeError)):
            assert not caught()


def _unweighted(logps: Tensor, some: Predictions, objective: Any) -> tuple[Tensor, Tensor, Tensor]:
    pairs = sum_pairs(logps, some)
    sums = torch.stack([pairs.chosen_sum, pairs.rejected_sum, -pairs.nll_sum], dim=1)
    return objective(pairs), sums, -torch.ones(len(some.target), dtype=torch.float64)


class Largest(TorchDispatchMode):
    """Records the shapes of all tensors that operations give."""

    def __enter__(self) -> Largest:
        self.made: set[tuple[int, ...]] = set()
        super().__enter__()
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.made |= {tuple(x.shape) for x in tree_leaves(result) if isinstance(x, Tensor)}
        return result

    def widest(self, vocabulary: int) -> int:
        """Most rows of a tensor whose last dimension is the vocabulary."""
        return max(
            (torch.Size(s).numel() // vocabulary for s in self.made if s and s[-1] == vocabulary),
            default=0,
        )


@pytest.mark.parametrize("rows", [36, 50])  # more than the weight has, transposed
@pytest.mark.parametrize("shared", [True, False])
def test_logits_stay_within_the_budget(shared: bool, rows: int) -> None:
    vocabulary = 1031
    model = model_of("llama", vocab_size=vocabulary)
    batch = collate(random_pairs(5, [(10, 30, 20), (20, 5, 40), (3, 3, 3), (2, 2, 2)]))
    head = FusedHead(budget=rows * vocabulary * 4)
    engine: Engine = PaddedEngine(head=head)
    if shared:
        ready = prepared(model)
        engine = type(ready)(head=head)
    with Largest() as seen:
        engine(model, batch, orpo_like).loss.backward()
    assert 0 < seen.widest(vocabulary) <= rows
    with Largest() as everything_at_once:
        PaddedEngine()(model, batch, orpo_like).loss.backward()
    assert everything_at_once.widest(vocabulary) > 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_is_as_good_as_the_naive_head(dtype: torch.dtype) -> None:
    expected = everything(naive, LogitTransform(), "bias", 1.0)
    errors = []
    for head in (naive, fused):
        layer = make_layer("bias").to(dtype)
        hidden = hidden_states().detach().to(dtype).requires_grad_()
        if head is naive:
            loss, _ = naive(LogitTransform(), layer, hidden)
        else:
            loss, _ = FusedHead()(layer, hidden, PREDICTIONS, orpo_like)
        loss.backward()
        assert hidden.grad is not None
        assert hidden.grad.dtype == layer.weight.grad.dtype == dtype
        apart = (hidden.grad.double() - expected["hidden"]).norm() / expected["hidden"].norm()
        apart_weight = (layer.weight.grad.double() - expected["weight"]).norm()
        errors.append((float(apart), float(apart_weight / expected["weight"].norm())))
    (plain, plain_weight), (ours, ours_weight) = errors
    assert ours < 1.2 * plain
    assert ours_weight < 1.2 * plain_weight


@pytest.mark.parametrize("rows", [7, 1000])
@pytest.mark.parametrize("sliced", [1, 5, VOCABULARY])
def test_a_wide_gradient_is_added_up_by_slices(
    sliced: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_products, "_CACHED", sliced * WIDTH * 2)
    layer = make_layer("no bias").bfloat16()
    hidden = hidden_states().detach().bfloat16().requires_grad_()
    head = FusedHead(budget=rows * VOCABULARY * 8)
    loss, _ = head(layer, hidden, PREDICTIONS, orpo_like)
    loss.backward()
    expected = everything(naive, LogitTransform(), "no bias", 1.0)["weight"]
    apart = (layer.weight.grad.double() - expected).abs().max() / expected.abs().max()
    assert 0 < apart < 2**-6


@pytest.mark.parametrize("kind", ["no bias", "frozen"])
def test_a_weight_is_rounded_once_for_all_groups(kind: str) -> None:
    layer, rounded = make_layer(kind).float(), 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal rounded
            result = func(*args, **(kwargs or {}))
            if func is torch.ops.aten._to_copy.default and args[0].shape == layer.weight.shape:
                rounded += 1
            return result

    hidden = hidden_states().float().detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16), Watch():
        FusedHead(budget=7 * VOCABULARY * 2)(layer, hidden, PREDICTIONS, orpo_like)
    assert rounded == 1
