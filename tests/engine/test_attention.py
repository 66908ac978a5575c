"""Attention over packed rows: every back end against each sequence alone, in float64."""

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from orpo.engine import attention_cuda, backends
from orpo.engine.backends import BACKENDS, Features, attend, candidates, choose_backend
from orpo.engine.layout import PairLayout, pack_pairs, pair_lengths
from tests.engine.emulated import emulate_kernels
from tests.engine.families import collate, pair_lists
from tests.train.oracle_fp64 import Pair

HEADS, KEY_HEADS, WIDTH = 4, 2, 8
SCALE = 0.7
PLAIN = ("dense", "segmented", "tiles", "sdpa")

Lengths = list[tuple[int, int, int]]
SHORT: Lengths = [(5, 3, 4), (0, 2, 3), (9, 0, 6), (7, 6, 0), (4, 0, 0), (1, 1, 1)]
LONG: Lengths = [(150, 20, 140), (3, 130, 5), (129, 1, 128)]
"""More than 128 queries: several tiles."""

lengths = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12)).filter(sum),
    min_size=1,
    max_size=4,
)
windows = st.none() | st.integers(1, 8)


def random_qkv(tokens: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    return [
        torch.randn(1, heads, tokens, WIDTH, generator=generator, dtype=dtype).requires_grad_()
        for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    ]


def one_sequence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """(q, H, D) for the last q of k positions of one sequence, query by query."""
    first, groups = len(k) - len(q), q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(groups, dim=1).transpose(0, 1) for x in (k, v))
    rows = []
    for i, query in enumerate(q):
        seen = slice(max(0, first + i + 1 - window) if window else 0, first + i + 1)
        scores = (k[:, seen] @ query[:, :, None])[:, :, 0] * scale
        if softcap:
            scores = softcap * (scores / softcap).tanh()
        weights = scores.exp()
        total = weights.sum(1) + (0 if sinks is None else sinks.exp())
        rows.append((weights[:, None] @ v[:, seen])[:, 0] / total[:, None])
    return torch.stack(rows)


def by_definition(q: Tensor, k: Tensor, v: Tensor, layout: PairLayout, **asked: Any) -> Tensor:
    """(1, S, H, D): each sequence of each pair alone, P's rows from the first of the two."""
    q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))
    parts = []
    for span in layout.spans:
        good = slice(span.start, span.turn)
        if span.prefix + span.chosen:
            parts.append(one_sequence(q[good], k[good], v[good], **asked))
        if span.rejected:
            prefix, tail = slice(span.start, span.fork), slice(span.turn, span.end)
            keys, values = (torch.cat([x[prefix], x[tail]]) for x in (k, v))
            parts.append(one_sequence(q[tail], keys, values, **asked))
    return torch.cat(parts)[None]


def difference(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], sizes: Lengths) -> float:
    """Largest difference of the outputs and of the gradients of queries, keys and values."""
    found = []
    for attention in (ours, theirs):
        layout = PairLayout.of(sizes)
        inputs = random_qkv(layout.tokens)
        output = attention(*inputs, layout)
        assert output.shape == (1, layout.tokens, HEADS, WIDTH)
        weight = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)
        grads = torch.autograd.grad((output * weight.cos()).sum(), inputs)
        found.append((output.detach(), *grads))
    return max(float((a - b).abs().max()) for a, b in zip(*found, strict=True))


def way(name: str | Callable[..., Tensor], **asked: Any) -> Callable[..., Tensor]:
    function = BACKENDS[name] if isinstance(name, str) else name
    return lambda q, k, v, layout: function(q, k, v, layout, scale=SCALE, **asked)


@pytest.mark.parametrize("backend", PLAIN)
@settings(max_examples=15)
@given(sizes=lengths, window=windows)
def test_back_ends_equal_each_sequence_alone(
    backend: str, sizes: Lengths, window: int | None
) -> None:
    expected = way(by_definition, window=window)
    assert difference(way(backend, window=window), expected, sizes) < 1e-10


@pytest.mark.parametrize("window", [None, 1, 100, 128, 129, 10_000])
def test_several_tiles(window: int | None) -> None:
    dense = way("dense", window=window)
    for backend in ("segmented", "tiles", "sdpa"):
        assert difference(way(backend, window=window), dense, LONG) < 1e-10, backend
    expected, long = way(by_definition, window=9), [(140, 3, 20)]
    assert difference(way("dense", window=9), expected, long) < 1e-10


@pytest.mark.parametrize("backend", ["dense", "segmented"])
@settings(max_examples=12)
@given(
    sizes=lengths,
    window=windows,
    softcap=st.none() | st.floats(0.3, 50),
    sinks=st.none() | st.lists(st.floats(-5, 5), min_size=HEADS, max_size=HEADS),
)
def test_soft_caps_and_sinks(
    backend: str,
    sizes: Lengths,
    window: int | None,
    softcap: float | None,
    sinks: list[float] | None,
) -> None:
    asked = {
        "window": window,
        "softcap": softcap,
        "sinks": None if sinks is None else torch.tensor(sinks, dtype=torch.float64),
    }
    assert difference(way(backend, **asked), way(by_definition, **asked), sizes) < 1e-10


@pytest.mark.parametrize("backend", ["dense", "segmented"])
def test_sinks_get_their_gradient(backend: str) -> None:
    layout = PairLayout.of(SHORT)
    grads = []
    for attention in (BACKENDS[backend], by_definition):
        sinks = torch.linspace(-1, 2, HEADS, dtype=torch.float64).requires_grad_()
        output = attention(*random_qkv(layout.tokens), layout, scale=SCALE, sinks=sinks)
        grads.append(torch.autograd.grad(output.square().sum(), sinks)[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", PLAIN)
def test_the_dtype_that_comes_in_goes_out(backend: str, dtype: torch.dtype) -> None:
    layout = PairLayout.of(SHORT)
    inputs = [x.detach().to(dtype) for x in random_qkv(layout.tokens)]
    expected = by_definition(*(x.double() for x in inputs), layout, scale=SCALE)
    output = BACKENDS[backend](*(x.requires_grad_() for x in inputs), layout, scale=SCALE)
    assert output.dtype == dtype
    bound = 4 * torch.finfo(dtype).eps * float(expected.abs().max())
    assert float((output.detach().double() - expected).abs().max()) < bound
    output.sum().backward()
    assert all(x.grad is not None and x.grad.dtype == dtype for x in inputs)


@pytest.mark.parametrize(
    ("kernel", "softcap"), [("flash_attn", None), ("flash_attn", 1.5), ("varlen", None)]
)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=lengths, window=windows)
def test_the_layout_for_kernels(
    monkeypatch: pytest.MonkeyPatch,
    kernel: str,
    softcap: float | None,
    sizes: Lengths,
    window: int | None,
) -> None:
    emulate_kernels(monkeypatch)
    asked = {"window": window} | ({} if softcap is None else {"softcap": softcap})
    assert difference(way(kernel, **asked), way("dense", **asked), sizes) < 1e-10


long_lengths = st.lists(
    st.tuples(st.integers(1, 300), st.integers(1, 300), st.integers(0, 300)),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("slab", [attention_cuda._SLAB, 1])
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=long_lengths, window=st.sampled_from([None, 1, 40, 200]))
@example(sizes=LONG, window=None)
def test_the_block_mask_is_what_torch_makes_of_the_mask(
    monkeypatch: pytest.MonkeyPatch, slab: int, sizes: Lengths, window: int | None
) -> None:
    layout = PairLayout.of(sizes)
    monkeypatch.setattr(attention_cuda, "_SLAB", slab)
    found, sees = attention_cuda.flex_mask(layout, window), layout.sees(window)
    size = (layout.tokens, layout.tokens)
    expected = create_block_mask(lambda _b, _h, q, k: sees(q, k), None, None, *size, device="cpu")
    assert found.seq_lengths == expected.seq_lengths
    assert found.BLOCK_SIZE == expected.BLOCK_SIZE
    for kind in ("kv", "full_kv", "q", "full_q"):
        for name in (f"{kind}_num_blocks", f"{kind}_indices"):
            ours, theirs = getattr(found, name), getattr(expected, name)
            assert torch.equal(ours, theirs), name
            assert ours.dtype == theirs.dtype
    index = torch.arange(layout.tokens)
    zero = torch.zeros((), dtype=torch.int64)
    entries = found.mask_mod(zero, zero, index[:, None], index[None, :])
    assert torch.equal(entries, layout.mask(window))


@pytest.mark.parametrize("window", [None, 4])
def test_no_mask_of_the_whole_row_is_made(
    monkeypatch: pytest.MonkeyPatch, window: int | None
) -> None:
    """Its S x S entries would be the largest thing in memory: 2 GiB for 16,384 positions."""
    layout, sees, made = PairLayout.of([(60, 20, 30)] * 6), PairLayout.sees, []

    def watched(layout: PairLayout, window: int | None = None) -> Callable[..., Tensor]:
        inner = sees(layout, window)

        def seen(query: Tensor, key: Tensor) -> Tensor:
            made.append(torch.broadcast_shapes(query.shape, key.shape).numel())
            return inner(query, key)

        return seen

    monkeypatch.setattr(PairLayout, "sees", watched)
    monkeypatch.setattr(attention_cuda, "_SLAB", 128 * 768)
    layout.pair_masks(window)
    attention_cuda.flex_mask(layout, window)
    assert 0 < max(made) <= 128 * 768 < layout.tokens**2
    made.clear()
    layout.mask(window)
    assert made == [layout.tokens**2]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (4, None), (None, 1.5), (4, 1.5)])
def test_flex_attention_uncompiled(window: int | None, softcap: float | None) -> None:
    """Forward only: there is no backward pass for it here."""
    layout = PairLayout.of(SHORT)
    asked = {"scale": SCALE, "window": window, "softcap": softcap}
    with torch.no_grad():
        inputs = [x.float() for x in random_qkv(layout.tokens)]
        found = attention_cuda.flex_attention(*inputs, layout, **asked)
        expected = BACKENDS["dense"](*inputs, layout, **asked)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@given(pairs=pair_lists(), window=windows)
def test_the_mask_is_that_of_each_sequence(pairs: list[Pair], window: int | None) -> None:
    """A query sees what stands before it in a sequence that both it and the key belong to."""
    layout = pack_pairs(collate(pairs), "sequence").layout
    expected = torch.zeros(layout.tokens, layout.tokens, dtype=torch.bool)
    start = 0
    for prefix, chosen, rejected in pair_lengths(collate(pairs)).tolist():
        shared = [start + i for i in range(prefix)]
        good = [start + prefix + i for i in range(chosen)]
        bad = [start + prefix + chosen + i for i in range(rejected)]
        for sequence in (shared + good, shared + bad):
            for i, query in enumerate(sequence):
                for key in sequence[max(0, i + 1 - window) if window else 0 : i + 1]:
                    expected[query, key] = True
        start += prefix + chosen + rejected
    assert torch.equal(layout.mask(window), expected)
    found = layout.pair_masks(window)  # parts of the mask, built once
    assert layout.pair_masks(window) is found
    assert [own for own, _ in found] == [slice(span.start, span.end) for span in layout.spans]
    for own, mask in found:
        assert torch.equal(mask, expected[own, own])
        expected[own, own] = False
    assert not expected.any()


def test_the_planted_mistakes_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each check fails where the thing that it checks is wrong."""
    assert difference(way("tiles"), way("dense", window=4), SHORT) > 1e-3
    assert difference(way("dense"), way("dense", softcap=1.0), SHORT) > 1e-3
    sinks = torch.zeros(HEADS, dtype=torch.float64)
    assert difference(way("dense"), way(by_definition, sinks=sinks), SHORT) > 1e-3
    causal = torch.ones(50, 50).tril().bool()
    monkeypatch.setattr(PairLayout, "mask", lambda layout, window=None: causal)
    assert difference(way("dense"), way(by_definition), [(20, 10, 20)]) > 1e-3


def test_what_a_processor_gets() -> None:
    sinks = torch.zeros(4)
    for name, asked in (
        ("tiles", Features(1.0)),
        ("tiles", Features(1.0, window=4)),
        ("segmented", Features(1.0, softcap=2.0)),
        ("segmented", Features(1.0, sinks=sinks)),
    ):
        assert choose_backend(torch.zeros(1, 4, 3, 8), asked) == name


@pytest.mark.parametrize("kernel", ["flash_attn", "varlen", "flex", None])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("feature", [{}, {"softcap": 2.0}, {"sinks": torch.zeros(4)}])
def test_what_an_accelerator_gets(
    monkeypatch: pytest.MonkeyPatch, kernel: str | None, dtype: torch.dtype, feature: Any
) -> None:
    """The first kernel that is there and knows what is asked for."""
    monkeypatch.setattr(attention_cuda, "has_flash_attn", lambda: kernel == "flash_attn")
    monkeypatch.setattr(attention_cuda, "has_varlen", lambda device: kernel == "varlen")
    monkeypatch.setattr(attention_cuda, "has_triton", lambda: kernel == "flex")
    device = types.SimpleNamespace(type="cuda")
    query = types.SimpleNamespace(device=device, dtype=dtype, shape=(1, 4, 3, 64))
    able = {
        "flash_attn": dtype == torch.bfloat16 and "sinks" not in feature,
        "varlen": dtype == torch.bfloat16 and not feature,
        "flex": "sinks" not in feature,
    }
    fallback = "segmented" if feature else "sdpa"
    expected = kernel if kernel and able[kernel] else fallback
    asked = Features(1.0, **feature)
    assert choose_backend(query, asked) == expected  # type: ignore[arg-type]
    kernels = frozenset({"flash_attn", "varlen", "flex"})
    assert choose_backend(query, asked, kernels) == fallback  # type: ignore[arg-type]
    assert candidates(query, asked)[-1] == "segmented"  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_multiplied_in_half_precision_gets_the_kernels_for_it(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Under autocast, rotary positions hand float32 to the attention of weights in float32."""
    asked: list[torch.dtype] = []

    def chosen(query: Tensor, _features: Features) -> list[str]:
        asked.append(query.dtype)
        return ["tiles"]

    monkeypatch.setattr(backends, "candidates", chosen)
    layout = PairLayout.of(SHORT)
    inputs = [x.detach().to(dtype) for x in random_qkv(layout.tokens)]
    attend(torch.nn.Identity(), *inputs, layout, {})
    with torch.autocast("cpu", torch.bfloat16):
        attend(torch.nn.Identity(), *inputs, layout, {})
    assert asked == [dtype, torch.bfloat16 if dtype == torch.float32 else dtype]
