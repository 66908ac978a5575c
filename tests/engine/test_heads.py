"""The heads: the naive one against a softmax in float64, the fused one against the naive one, and
what stands between a model's hidden states and its logits."""

from __future__ import annotations

import contextlib
import functools
import itertools
from typing import Any

import peft
import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from orpo.engine import head as head_products
from orpo.engine.fused_head import FusedHead, _Work, output_layer, probe_transform, tap
from orpo.engine.head import LogitTransform, product_of, sum_dtype, sum_pairs, token_logps
from orpo.engine.layout import Predictions, pack_pairs
from orpo.engine.padded import PaddedEngine
from orpo.engine.types import Engine
from orpo.objective.types import PairLogps
from tests.engine.families import (
    SHARED,
    SIZES,
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


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("kind", LAYERS)
def test_equals_the_naive_head(kind: str, transform: str) -> None:
    expected = everything(naive, TRANSFORMS[transform], kind, 1.0)
    for rows in (1, 2, 3, 7, 20, 1000):
        found = everything(functools.partial(fused, rows=rows), TRANSFORMS[transform], kind, 1.0)
        assert farthest(found, expected) < 1e-12, rows


@pytest.mark.parametrize("factor", [0.37, -2.0, 0.0])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_factor_of_the_loss_reaches_the_gradients(kind: str, factor: float) -> None:
    transform = TRANSFORMS["scale and soft cap"]
    expected = everything(naive, transform, kind, factor)
    assert farthest(everything(fused, transform, kind, factor), expected) < 1e-12


def test_gradients_add_up_over_passes_and_ties() -> None:
    layer, hidden = make_layer("bias"), hidden_states()
    for _ in range(2):
        fused(LogitTransform(), layer, hidden)[0].backward()
    once = everything(naive, LogitTransform(), "bias", 2.0)
    torch.testing.assert_close(layer.weight.grad, once["weight"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(hidden.grad, once["hidden"], rtol=1e-12, atol=1e-12)
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


# The naive head: log-probabilities where they are asked for, and nowhere else


def asked_for(source: list[int], counted: tuple[int, ...]) -> Predictions:
    generator = torch.Generator().manual_seed(0)
    return Predictions(
        torch.tensor(source, dtype=torch.int64),
        torch.randint(0, 11, (len(source),), generator=generator),
        torch.rand(len(source), 3, generator=generator) < 0.6,
        (0, *itertools.accumulate(counted)),
    )


ASKED = asked_for([0, 1, 1, 5, 9, 12, 20, 12], (3, 0, 4, 1))
"""Of three rows of seven tokens; one hidden state may be asked twice."""


def random_logits(seed: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(3, 7, 11, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_equals_a_log_softmax_in_float64(scale: float, dtype: torch.dtype) -> None:
    logits = random_logits(1, scale).to(dtype)
    found = token_logps(logits, ASKED)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # The rounding of the logits themselves is the model's; from there on nothing is lost.
    rows = logits.double().flatten(0, 1)[ASKED.source].log_softmax(-1)
    expected = rows[torch.arange(8), ASKED.target]
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6 * max(scale, 1))
    assert torch.equal(token_logps(logits.flatten(0, 1), ASKED), found)


def test_nothing_or_the_impossible_asked_for() -> None:
    nothing = asked_for([], (0, 0))
    found = token_logps(random_logits(2), nothing)
    assert found.shape == (0,)
    empty = sum_pairs(found, nothing)
    assert (
        empty.chosen_sum.tolist() == empty.nll_sum.tolist() == empty.nll_tokens.tolist() == [0, 0]
    )
    logits = random_logits(4)
    logits.view(-1, 11)[5, ASKED.target[3]] = float("-inf")
    assert token_logps(logits, ASKED).isfinite().tolist() == [True] * 3 + [False] + [True] * 4


def test_gradient_reaches_what_was_asked_for_and_nothing_else() -> None:
    logits = random_logits(3).double().requires_grad_()
    weights = torch.linspace(1, 2, 8, dtype=torch.float64)

    def total(values: Tensor) -> Tensor:
        return (token_logps(values, ASKED) * weights).sum()

    assert torch.autograd.gradcheck(total, logits)
    total(logits).backward()
    assert logits.grad is not None
    reached = (logits.grad.flatten(0, 1) != 0).any(-1).nonzero()[:, 0].tolist()
    assert reached == sorted(set(ASKED.source.tolist()))


def test_sums_by_pair() -> None:
    logps = torch.linspace(-1, -8, 8, dtype=torch.float64).requires_grad_()
    found = sum_pairs(logps, ASKED)
    for pair, (first, last) in enumerate([(0, 3), (3, 3), (3, 7), (7, 8)]):
        member = ASKED.member[first:last]
        expected = [sum(logps[first:last][member[:, i]].tolist()) for i in range(3)]
        of_pair = [found.chosen_sum[pair], found.rejected_sum[pair], -found.nll_sum[pair]]
        assert [float(x.detach()) for x in of_pair] == pytest.approx(expected)
        tokens = [found.chosen_tokens, found.rejected_tokens, found.nll_tokens]
        assert [int(x[pair]) for x in tokens] == member.sum(0).tolist()
    (grad,) = torch.autograd.grad(found.chosen_sum.sum() - 2 * found.nll_sum.sum(), logps)
    assert torch.equal(grad, ASKED.member[:, 0].double() + 2 * ASKED.member[:, 2].double())
    assert sum_dtype(torch.zeros(1, dtype=torch.bfloat16)) == torch.float64  # where there is one
    assert sum_pairs(torch.zeros(8), ASKED).nll_sum.dtype == torch.float64


# Between hidden states and logits: what a model does to them, and hooks that go again

IDS = torch.tensor([[5, 6, 7]])


def probed(model: Any) -> LogitTransform | None:
    layer = output_layer(model)
    assert layer is not None
    return probe_transform(model, layer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("family", "settings", "scale", "cap"),
    [
        ("llama", {}, 1.0, 0),
        ("gpt2", {}, 1.0, 0),
        ("granite", {}, 0.25, 0),
        ("cohere2", {}, 0.25, 0),
        ("gemma2", {}, 1.0, 3.0),
        ("granite", {"logits_scaling": 16.0}, 0.0625, 0),
        ("granite", {"logits_scaling": 1 / 13}, 13.0, 0),
        ("cohere2", {"logit_scale": 8.0}, 8.0, 0),
        ("gemma2", {"final_logit_softcapping": 50.0}, 1.0, 50.0),
    ],
)
def test_what_a_family_does_to_its_logits(
    family: str, settings: dict[str, float], scale: float, cap: float, dtype: torch.dtype
) -> None:
    found = probed(model_of(family, **settings).to(dtype))
    assert found is not None
    exact = dtype.itemsize > 2
    assert (found.scale, found.softcap or 0) == pytest.approx(
        (scale, cap), rel=1e-6 if exact else 5e-3
    )


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

    assert probed(Strange(hf.LlamaConfig(**SIZES)).eval()) is None


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
    model = model_of("granite")
    assert output_layer(model) is model.lm_head
    assert output_layer(nn.Linear(2, 2)) is output_layer(model.model) is None
    before, seen = model(input_ids=IDS).logits, []

    def score(hidden: Tensor) -> Tensor:
        seen.append(hidden)
        if fails:
            raise ValueError("planted")
        return hidden.sum()

    expected = pytest.raises(ValueError, match="planted") if fails else contextlib.nullcontext()
    with expected, tap(model.lm_head, score):
        for _ in range(2):  # a layer is tapped once per pass
            assert model(input_ids=IDS).logits.shape == (1, 0, 97)
    assert len(seen) == (1 if fails else 2)
    probed(model)
    assert not model.lm_head._forward_hooks
    assert not model.lm_head._forward_pre_hooks
    assert torch.equal(model(input_ids=IDS).logits, before)
    assert all(p.grad is None for p in model.parameters())
