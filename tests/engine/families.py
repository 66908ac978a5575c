"""Tiny random models of many families, pairs to score with them, and the scores by definition."""

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import peft
import pytest
import torch
import transformers as hf
from hypothesis import strategies as st
from torch import Tensor, nn

from orpo.data.pack import PairCollator
from orpo.engine.fused_head import FusedHead, output_layer, probe_transform
from orpo.engine.shared import SharedEngine
from orpo.engine.types import Engine
from orpo.objective.types import PairLogps
from tests.train.oracle_fp64 import Pair, relative_difference, sequence_logps

VOCABULARY = 97
SIZES: dict[str, Any] = {
    **{"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48},
    **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"max_position_embeddings": 128, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2},
}
HEADS: dict[str, Any] = {**SIZES, "head_dim": 8}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2}
WINDOWED: dict[str, Any] = {"sliding_window": 8}
MIXED: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"], **WINDOWED}
GPT: dict[str, Any] = {
    **{"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    **{"bos_token_id": 1, "eos_token_id": 2},
}
OPT: dict[str, Any] = {
    **{"vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "max_position_embeddings": 128, "word_embed_proj_dim": 32},
    "dropout": 0.0,
}
NO_DROPOUT: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}

SHARED: dict[str, hf.PretrainedConfig] = {
    "llama": hf.LlamaConfig(**SIZES),
    "qwen2": hf.Qwen2Config(**SIZES),
    "qwen3": hf.Qwen3Config(**HEADS),
    "qwen3_moe": hf.Qwen3MoeConfig(
        **HEADS, **EXPERTS, num_experts=4, moe_intermediate_size=16, decoder_sparse_step=1
    ),
    "mistral": hf.MistralConfig(**HEADS, **WINDOWED),
    "mixtral": hf.MixtralConfig(**HEADS, **EXPERTS, num_local_experts=4),
    "gemma2": hf.Gemma2Config(
        **{**HEADS, **WINDOWED, "query_pre_attn_scalar": 8},
        **{"attn_logit_softcapping": 0.5, "final_logit_softcapping": 3.0},
    ),
    "gemma3": hf.Gemma3TextConfig(**HEADS, **MIXED, query_pre_attn_scalar=8),
    "gpt_oss": hf.GptOssConfig(**HEADS, **MIXED, **EXPERTS, num_local_experts=4),
    "phi3": hf.Phi3Config(**SIZES),
    "smollm3": hf.SmolLM3Config(**SIZES, no_rope_layers=[1, 0]),
    "olmo3": hf.Olmo3Config(**SIZES, **MIXED),
    "granite": hf.GraniteConfig(**SIZES, logits_scaling=4.0),
    "cohere2": hf.Cohere2Config(**HEADS, **MIXED, logit_scale=0.25),
    "starcoder2": hf.Starcoder2Config(
        **SIZES, **WINDOWED, use_bias=True, residual_dropout=0.0, embedding_dropout=0.0
    ),
    "gpt_neox": hf.GPTNeoXConfig(**{k: v for k, v in SIZES.items() if k != "num_key_value_heads"}),
    "gpt2": hf.GPT2Config(**GPT, **NO_DROPOUT),
    "opt": hf.OPTConfig(**OPT),
}
"""What the shared engine takes."""

FALL_BACK: dict[str, hf.PretrainedConfig] = {
    "qwen3_next": hf.Qwen3NextConfig(
        **{**HEADS, **EXPERTS, "layer_types": ["linear_attention", "full_attention"]},
        **{"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8},
        **{"linear_value_head_dim": 8, "moe_intermediate_size": 16, "num_experts": 4},
        shared_expert_intermediate_size=16,
    ),
    "lfm2": hf.Lfm2Config(**SIZES, layer_types=["conv", "full_attention"]),
    "mamba": hf.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=32, state_size=4, num_hidden_layers=2
    ),
    "falcon": hf.FalconConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4
    ),
    "bloom": hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
    "mpt": hf.MptConfig(vocab_size=VOCABULARY, d_model=32, n_layers=2, n_heads=4, max_seq_len=128),
    "gptj": hf.GPTJConfig(**GPT, **NO_DROPOUT, rotary_dim=4),
    "llama4": hf.Llama4TextConfig(
        **{**HEADS, **EXPERTS, "intermediate_size_mlp": 48, "num_local_experts": 4},
        **{"attention_chunk_size": 16, "layer_types": ["chunked_attention", "full_attention"]},
    ),
}
"""What has layers or attention that cannot be shared."""

FAMILIES = {**SHARED, **FALL_BACK}


def model_of(family: str, **changes: Any) -> hf.PreTrainedModel:
    """A random model in evaluation mode, the same weights every time."""
    config = copy.deepcopy(FAMILIES[family])
    if changes:
        config = type(config)(**{**config.to_dict(), **changes})
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_norm" not in name and "k_norm" not in name:
                weight.mul_(3)  # sharper than at the start, so that attention matters
    return model.eval()


def with_lora(family: str, **settings: Any) -> Any:
    """The same with a random LoRA adapter on every matrix but the output layer."""
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=4, init_lora_weights=False, target_modules="all-linear", task_type="CAUSAL_LM", **settings
    )
    return peft.get_peft_model(model_of(family), config)


@functools.cache
def exact_twins(family: str, window: int | None = None) -> tuple[nn.Module, nn.Module]:
    """Two models with the same weights in float64: for the definition, and for an engine."""
    changes = {} if window is None else {"sliding_window": window}
    return exact_copy(model_of(family, **changes)), exact_copy(model_of(family, **changes))


def exact_copy(model: hf.PreTrainedModel) -> hf.PreTrainedModel:
    """A copy in float64 whose norms compute in float64 too, where transformers' are float32."""
    twin = copy.deepcopy(model).double()
    if getattr(twin.config, "num_local_experts", getattr(twin.config, "num_experts", None)):
        twin.set_experts_implementation("eager")  # grouped products know no float64
    for module in twin.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = _rms_norm(module)
        elif type(module).__name__ == "Cohere2LayerNorm":
            module.forward = _layer_norm(module)
    return twin


@contextlib.contextmanager
def softmax_in_float64() -> Iterator[None]:
    """Where transformers asks for a softmax in float32 of float64 scores, it gets float64."""
    softmax = nn.functional.softmax

    def wider(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if x.dtype == torch.float64:
            kwargs["dtype"] = torch.float64
        return softmax(x, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "softmax", wider)
        yield


def _rms_norm(module: nn.Module) -> Callable[[Tensor], Tensor]:
    eps = getattr(module, "variance_epsilon", None) or module.eps
    shift = 1.0 if type(module).__name__.startswith(("Gemma", "Qwen3Next")) else 0.0

    def forward(x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (shift + module.weight)

    return forward


def _layer_norm(module: nn.Module) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)
        return centred * torch.rsqrt(variance + module.variance_epsilon) * module.weight

    return forward


LENGTHS = [(1, 1, 1), (3, 20, 2), (30, 2, 17), (12, 5, 5), (1, 30, 1)]
"""Prompt, chosen and rejected tokens: long beside short, and longer than every window."""


def random_ids(generator: torch.Generator, count: int) -> list[int]:
    return torch.randint(3, VOCABULARY, (count,), generator=generator).tolist()


def random_pairs(seed: int, lengths: list[tuple[int, int, int]]) -> list[Pair]:
    generator = torch.Generator().manual_seed(seed)
    return [tuple(random_ids(generator, n) for n in sizes) for sizes in lengths]  # type: ignore[misc]


@st.composite
def pair_lists(draw: st.DrawFn) -> list[Pair]:
    """Prompts of 0 to 12 tokens, answers of 1 to 12 that may begin alike, end early or be equal."""
    token = st.integers(3, VOCABULARY - 1)
    answers = st.lists(token, min_size=1, max_size=12)
    pairs: list[Pair] = []
    for _ in range(draw(st.integers(1, 4))):
        prompt = draw(st.lists(token, max_size=12))
        chosen, other = draw(answers), draw(answers)
        if not prompt and len(chosen) == len(other) == 1:
            prompt = [3]  # else nothing is predicted
        kind = draw(st.sampled_from(["different", "equal", "begin alike", "longer", "shorter"]))
        rejected = {
            "different": other,
            "equal": chosen,
            "begin alike": chosen[: draw(st.integers(1, 12))] + other,
            "longer": chosen + other,
            "shorter": chosen[: draw(st.integers(1, len(chosen)))],
        }[kind]
        pairs.append((prompt, chosen, rejected[:12] if kind == "begin alike" else rejected))
    return pairs


def collate(pairs: list[Pair], pad: int = 0) -> dict[str, Tensor]:
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    rows = [{**dict(zip(names, pair, strict=True)), "row": i} for i, pair in enumerate(pairs)]
    return PairCollator(pad)(rows)


def exact(model: nn.Module, pairs: list[Pair], nll_scope: str = "sequence") -> PairLogps:
    """The sums by definition, each sequence alone, with gradient."""
    sums: list[list[Tensor]] = []
    for prompt, chosen, rejected in pairs:
        first = max(len(prompt) - 1, 0)
        with_good = sequence_logps(model, prompt + chosen)
        with_bad = sequence_logps(model, prompt + rejected)
        counted = with_good if nll_scope == "sequence" else with_good[first:]
        sums.append([with_good[first:], with_bad[first:], -counted])
    columns = list(zip(*sums, strict=True))
    good, bad, nll = (torch.stack([x.sum() for x in column]) for column in columns)
    counts = (torch.tensor([len(x) for x in column]) for column in columns)
    return PairLogps(*(x for pair in zip((good, bad, nll), counts, strict=True) for x in pair))


def orpo_like(logps: PairLogps) -> Tensor:
    """A curved sum over pairs, of all three sums and their lengths; fine with empty answers."""
    chosen = logps.chosen_sum / logps.chosen_tokens.clamp(min=1)
    rejected = logps.rejected_sum / logps.rejected_tokens.clamp(min=1)
    preference = nn.functional.softplus(rejected - chosen)
    return (0.1 * logps.nll_sum + preference + 0.03 * rejected.square()).sum()


def gradient(model: nn.Module) -> dict[str, Tensor]:
    """d loss / d parameter after a backward pass, zero where there is none."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def prepared(
    model: hf.PreTrainedModel, nll_scope: str = "sequence", backend: str | None = None
) -> SharedEngine:
    """The shared engine for a model, without a self-test."""
    layer = output_layer(model)
    assert layer is not None
    transform = probe_transform(model, layer)
    assert transform is not None
    return SharedEngine(nll_scope, head=FusedHead(transform), backend=backend)


Result = tuple[float, dict[str, Tensor]]
"""A loss and its gradients."""


def of_engine(
    engine: Engine, model: nn.Module, batch: dict[str, Tensor], *, autocast: bool = False
) -> Result:
    """What an engine gives for `orpo_like`."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = engine(model, batch, orpo_like).loss
    loss.backward()
    return float(loss.detach()), gradient(model)


def by_definition(model: nn.Module, pairs: list[Pair], nll_scope: str = "sequence") -> Result:
    """What each sequence alone gives for `orpo_like`."""
    model.zero_grad()
    loss = orpo_like(exact(model, pairs, nll_scope))
    loss.backward()
    return float(loss.detach()), gradient(model)


def apart(ours: Result, theirs: Result) -> tuple[float, float]:
    """Relative differences of the losses, and of all gradients as one vector."""
    loss = abs(ours[0] - theirs[0]) / abs(theirs[0])
    return loss, relative_difference(ours[1], theirs[1])
