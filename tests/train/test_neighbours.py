"""The gradient of a step is that of its pairs, whatever is computed together, noise included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from orpo import ConfigError, ModelError, ORPOTrainer
from tests.train.one_step import quiet_trainer, step_gradients
from tests.train.oracle_fp64 import gradients, in_fp64, orpo, pairs_of, relative_difference
from tests.train.small import text_rows, tiny_llama

WAYS: dict[str, dict[str, Any]] = {
    "8 at once": {"per_device_train_batch_size": 8},
    "1 by 1": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
    "by tokens": {"per_device_train_batch_size": 8, "max_tokens_per_microbatch": 120},
    "padded": {"per_device_train_batch_size": 8, "engine": "padded"},
    "padded, 2 by 2": {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "engine": "padded",
    },
}
SIZES: dict[str, Any] = {
    **{"vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512},
    **{"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2},
}
MIXTURE: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
NEFTUNE = 5.0
SEED, STEP = 42, 0


def noise_of(row: int, prefix: int, chosen: int, rejected: int, width: int) -> Tensor:
    """NEFTune for one pair: uniform, alpha / sqrt(L d), by seed, step and row."""
    state = np.random.SeedSequence((SEED, STEP, row)).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state[0] >> 1))
    u = torch.rand(prefix + chosen + rejected, width, generator=generator) * 2 - 1
    return u.double() * NEFTUNE / ((prefix + max(chosen, rejected)) * width) ** 0.5


def common(one: list[int], other: list[int]) -> int:
    return next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)


def gradient_with_noise(model: nn.Module, dataset: Any) -> dict[str, Tensor]:
    """The oracle's, with noise added to the embeddings of each sequence."""
    exact = in_fp64(model)
    width = exact.get_input_embeddings().embedding_dim  # type: ignore[operator]
    added: dict[tuple[int, ...], Tensor] = {}
    for row, (prompt, chosen, rejected) in enumerate(pairs_of(dataset)):
        prefix = common(prompt + chosen, prompt + rejected)
        turn = len(prompt + chosen)
        noise = noise_of(row, prefix, turn - prefix, len(prompt + rejected) - prefix, width)
        added[*prompt, *chosen] = noise[:turn]
        added[*prompt, *rejected] = torch.cat([noise[:prefix], noise[turn:]])

    def add(_table: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return output + added[tuple(inputs[0][0].tolist())]

    exact.get_input_embeddings().register_forward_hook(add)  # type: ignore[operator]
    orpo(exact, pairs_of(dataset), alpha=0.5).loss.backward()
    return {n: p.grad for n, p in exact.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("way", WAYS)
def test_noise_on_embeddings_is_that_of_each_pair(tmp_path: Path, way: str) -> None:
    ours = step_gradients(str(tmp_path / "run"), neftune_noise_alpha=NEFTUNE, **WAYS[way])
    plain = quiet_trainer(ORPOTrainer, str(tmp_path), train_dataset=text_rows())
    expected = gradient_with_noise(tiny_llama(), plain.train_dataset)
    assert relative_difference(ours, expected) < 1e-5
    without = gradients(tiny_llama(), pairs_of(plain.train_dataset), alpha=0.5)
    assert relative_difference(ours, without) > 1e-2


def test_noise_is_for_training_only_and_leaves_nothing_behind(tmp_path: Path) -> None:
    evaluations = []
    for alpha in (None, NEFTUNE):
        data = {"train_dataset": text_rows(), "eval_dataset": text_rows()}
        settings = {"neftune_noise_alpha": alpha, "learning_rate": 0.0}
        trainer = quiet_trainer(ORPOTrainer, str(tmp_path / str(alpha)), **data, **settings)
        trainer.train()
        evaluations.append(trainer.evaluate()["eval_loss"])
        table = trainer.model.get_input_embeddings()
        assert not table._forward_hooks
        assert not hasattr(table, "neftune_noise_alpha")
    assert evaluations[0] == evaluations[1]
    with pytest.raises(ConfigError, match="neftune_noise_alpha"):
        quiet_trainer(ORPOTrainer, str(tmp_path), neftune_noise_alpha=-1.0)


NOISY: dict[str, Any] = {
    "PhimoeTopKRouter": lambda: hf.PhimoeConfig(
        **SIZES, **MIXTURE, router_jitter_noise=0.5, input_jitter_noise=0.3
    ),
    "MixtralSparseMoeBlock": lambda: hf.MixtralConfig(**SIZES, **MIXTURE, router_jitter_noise=0.3),
    "MiniMaxM2SparseMoeBlock": lambda: hf.MiniMaxM2Config(
        **SIZES, **MIXTURE, head_dim=8, rotary_dim=8, router_jitter_noise=0.3
    ),
}


def noisy_model(name: str) -> hf.PreTrainedModel:
    torch.manual_seed(0)
    return hf.AutoModelForCausalLM.from_config(NOISY[name]())


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("way", ["8 at once", "1 by 1", "padded"])
def test_routers_that_jitter_do_not_while_dropout_is_off(
    tmp_path: Path, name: str, way: str
) -> None:
    """What is trained is the network that is used: its gradient as in evaluation."""

    def model() -> hf.PreTrainedModel:
        built = noisy_model(name)
        built.set_experts_implementation("eager")
        return built

    trainer = quiet_trainer(
        ORPOTrainer, str(tmp_path / "told"), model=model(), train_dataset=text_rows()
    )
    (note,) = (note for note in trainer.notes if "random numbers" in note)
    assert name in note
    found = step_gradients(str(tmp_path / "run"), model=model(), **WAYS[way])
    expected = gradients(model(), pairs_of(trainer.train_dataset), alpha=0.5)
    zero = {n: torch.zeros_like(p) for n, p in model().named_parameters()}
    assert relative_difference({**zero, **found}, {**zero, **expected}) < 1e-5


def test_where_dropout_was_asked_for_it_is_said_what_depends_on_it(tmp_path: Path) -> None:
    given = {"model": tiny_llama(attention_dropout=0.1), "train_dataset": text_rows()}
    trainer = quiet_trainer(ORPOTrainer, str(tmp_path), disable_dropout=False, **given)
    assert any("numbers depend on how pairs are dealt out" in note for note in trainer.notes)


class AlwaysRandom(nn.Module):
    """Noise in training and out of it."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


class Ahead(nn.Module):
    """Sees what comes after."""

    def forward(self, x: Tensor) -> Tensor:
        return x + x.mean(1, keepdim=True)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (AlwaysRandom, "AlwaysRandom draws random numbers whether it is trained"),
        (Ahead, "sees what comes after a token"),
    ],
)
def test_a_model_that_cannot_be_trained_so_is_refused(
    tmp_path: Path, part: type[nn.Module], said: str
) -> None:
    model = tiny_llama()
    model.model.norm = part()
    with pytest.raises(ModelError, match=said):
        quiet_trainer(ORPOTrainer, str(tmp_path), model=model, train_dataset=text_rows())
