"""The padded engine against one sequence at a time in float64, for several families of models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from orpo.data import PairCollator
from orpo.engine import EngineOutput, PaddedEngine
from orpo.objective import PairLogps
from tests.train.oracle_fp64 import Pair, in_fp64, relative_difference, sequence_logps
from tests.train.small import tiny_llama

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
FAMILIES: dict[str, hf.PretrainedConfig] = {
    "llama": hf.LlamaConfig(**SIZES),
    "qwen2": hf.Qwen2Config(**SIZES),
    "mistral, window 8": hf.MistralConfig(**SIZES, sliding_window=8, head_dim=8),
    "gemma2, window 8, soft-capping": hf.Gemma2Config(
        **SIZES,
        head_dim=8,
        sliding_window=8,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        query_pre_attn_scalar=8,
    ),
    "gpt2": hf.GPT2Config(
        vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1
    ),
    "opt": hf.OPTConfig(
        vocab_size=97,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        word_embed_proj_dim=32,
    ),
    "bloom": hf.BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4),
    "granite, scaled logits": hf.GraniteConfig(**SIZES, logits_scaling=4.0),
}


def model_of(family: str) -> hf.PreTrainedModel:
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(FAMILIES[family])
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)  # sharper than at the start, so that attention matters
    return model.eval()


def random_pairs(seed: int, lengths: list[tuple[int, int, int]]) -> list[Pair]:
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> list[int]:
        return torch.randint(3, 97, (count,), generator=generator).tolist()

    return [(ids(p), ids(c), ids(r)) for p, c, r in lengths]


LENGTHS = [(1, 1, 1), (3, 20, 2), (30, 2, 17), (12, 5, 5), (1, 30, 1)]
"""Prompt, chosen and rejected tokens: long beside short, and longer than every window."""


def collate(pairs: list[Pair], pad: int = 0) -> dict[str, Tensor]:
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    rows = [{**dict(zip(names, pair, strict=True)), "row": i} for i, pair in enumerate(pairs)]
    return PairCollator(pad)(rows)


def exact(model: nn.Module, pairs: list[Pair], nll_scope: str = "sequence") -> dict[str, Tensor]:
    """The sums by definition, each sequence alone."""
    sums: dict[str, list[Tensor]] = {"chosen_sum": [], "rejected_sum": [], "nll_sum": []}
    for prompt, chosen, rejected in pairs:
        good = sequence_logps(model, prompt + chosen)
        bad = sequence_logps(model, prompt + rejected)
        first = len(prompt) - 1
        sums["chosen_sum"].append(good[first:].sum())
        sums["rejected_sum"].append(bad[first:].sum())
        sums["nll_sum"].append(-(good if nll_scope == "sequence" else good[first:]).sum())
    return {name: torch.stack(values) for name, values in sums.items()}


@pytest.mark.parametrize("nll_scope", ["sequence", "completion"])
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_equal_the_oracle(family: str, nll_scope: str) -> None:
    model, pairs = model_of(family), random_pairs(1, LENGTHS)
    with torch.no_grad():
        found = PaddedEngine(nll_scope).score(model, collate(pairs))
        expected = exact(in_fp64(model), pairs, nll_scope)
    for name, sums in expected.items():
        torch.testing.assert_close(getattr(found, name), sums, rtol=2e-6, atol=1e-6, msg=name)
    assert found.chosen_tokens.tolist() == [c for _, c, _ in LENGTHS]
    assert found.rejected_tokens.tolist() == [r for _, _, r in LENGTHS]
    prompts = [p - 1 if nll_scope == "sequence" else 0 for p, _, _ in LENGTHS]
    assert found.nll_tokens.tolist() == [
        p + c for p, (_, c, _) in zip(prompts, LENGTHS, strict=True)
    ]
    assert found.aux_loss is None


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_the_oracle(family: str) -> None:
    model, pairs = model_of(family), random_pairs(2, LENGTHS)
    weights = torch.linspace(-1, 1, 3 * len(pairs), dtype=torch.float64).view(3, -1)

    def objective(sums: list[Tensor]) -> Tensor:
        return (torch.stack(sums) * weights).sum()

    def from_engine(logps: PairLogps) -> Tensor:
        return objective([logps.chosen_sum, logps.rejected_sum, logps.nll_sum])

    output = PaddedEngine()(model, collate(pairs), from_engine)
    assert isinstance(output, EngineOutput)
    output.loss.backward()
    reference = in_fp64(model)
    objective(list(exact(reference, pairs).values())).backward()
    ours, theirs = (
        {n: p.grad for n, p in m.named_parameters() if p.grad is not None}
        for m in (model, reference)
    )
    assert relative_difference(ours, theirs) < 1e-5


@settings(max_examples=15)
@given(
    lengths=st.lists(
        st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12)),
        min_size=1,
        max_size=5,
    ),
    seed=st.integers(0, 1000),
    pad=st.integers(0, 96),
)
def test_padding_and_neighbours_do_not_matter(
    lengths: list[tuple[int, int, int]], seed: int, pad: int
) -> None:
    model, pairs = model_of("llama"), random_pairs(seed, lengths)
    with torch.no_grad():
        together = PaddedEngine().score(model, collate(pairs, pad))
        alone = [PaddedEngine().score(model, collate([pair])) for pair in pairs]
    for name in ("chosen_sum", "rejected_sum", "nll_sum"):
        expected = torch.cat([getattr(one, name) for one in alone])
        torch.testing.assert_close(getattr(together, name), expected, rtol=1e-5, atol=1e-5)


def test_the_first_token_of_a_sequence_is_never_predicted() -> None:
    """Not even where there is no prompt: nothing stands before it."""
    model, (pair,) = tiny_llama().eval(), random_pairs(3, [(1, 4, 3)])
    without_prompt: Pair = ([], pair[0] + pair[1], pair[0] + pair[2])
    with torch.no_grad():
        found = PaddedEngine("completion").score(model, collate([without_prompt]))
        expected = PaddedEngine("completion").score(model, collate([pair]))
    assert found.chosen_tokens.tolist() == [4]
    torch.testing.assert_close(found.chosen_sum, expected.chosen_sum)
    torch.testing.assert_close(found.rejected_sum, expected.rejected_sum)
    torch.testing.assert_close(found.nll_sum, expected.nll_sum)


def test_sums_over_long_answers_lose_nothing() -> None:
    """A thousand terms in float32 would cost three digits."""
    model = tiny_llama(max_position_embeddings=2048).eval()
    pairs = random_pairs(4, [(4, 1000, 10)])
    with torch.no_grad():
        found = PaddedEngine().score(model, collate(pairs))
        expected = exact(in_fp64(model), pairs)
    assert found.chosen_sum.dtype == torch.float64
    torch.testing.assert_close(found.chosen_sum, expected["chosen_sum"], rtol=1e-7, atol=0)


def test_weights_in_half_precision_give_float32_log_probabilities() -> None:
    model, pairs = tiny_llama().to(torch.bfloat16).eval(), random_pairs(5, LENGTHS)
    with torch.no_grad():
        found = PaddedEngine().score(model, collate(pairs))
        expected = exact(in_fp64(model), pairs)
    torch.testing.assert_close(found.nll_sum, expected["nll_sum"], rtol=1e-2, atol=1e-2)


def test_the_cache_stays_off() -> None:
    seen: list[dict[str, Any]] = []
    model = tiny_llama().eval()
    model.register_forward_pre_hook(lambda m, a, kwargs: seen.append(kwargs), with_kwargs=True)
    PaddedEngine().score(model, collate(random_pairs(6, [(2, 2, 2)])))
    (kwargs,) = seen
    assert kwargs["use_cache"] is False
    assert "output_router_logits" not in kwargs
