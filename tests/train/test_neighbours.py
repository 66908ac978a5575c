"""The gradient of a step is that of its pairs, whatever is computed together.

Noise, pair weights and rows without rejected answer are held against oracles of their own.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from orpo import ConfigError, DataError, ModelError, ORPOTrainer
from orpo.train import step_loss
from tests.train.one_step import quiet_trainer, step_gradients
from tests.train.oracle_fp64 import (
    gradients,
    in_fp64,
    orpo,
    pairs_of,
    relative_difference,
)
from tests.train.small import text_rows, tiny_llama

WAYS: dict[str, dict[str, Any]] = {
    "8 at once": {"per_device_train_batch_size": 8},
    "1 by 1": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
    "by tokens": {"per_device_train_batch_size": 8, "max_tokens_per_microbatch": 120},
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


@pytest.mark.parametrize(
    ("name", "way"), [*zip(NOISY, ("padded, 2 by 2", "1 by 1", "padded, 2 by 2"), strict=True)]
)
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


# Pair weights, and rows that have no rejected answer

ALPHA = 0.5
WEIGHTS = (1.0, 2.0, 0.25, 1.0, 3.0, 0.5, 1.0, 4.0)
WITHOUT = {1, 4, 7}


def mixed_rows(*, weighted: bool = True, alone: bool = True) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [dict(row) for row in text_rows()]
    for i, row in enumerate(rows):
        if weighted:
            row["weight"] = WEIGHTS[i]
        if alone and i in WITHOUT:
            row["rejected"] = None
    return rows


def exact(trainer: ORPOTrainer, nll_scope: str) -> tuple[float, dict[str, Tensor]]:
    """The oracle's loss with the rows' weights, and its gradient."""
    model, rows = in_fp64(tiny_llama()), trainer.train_dataset
    how: dict[str, Any] = {"nll_scope": nll_scope, "weights": [row["weight"] for row in rows]}
    loss = orpo(model, pairs_of(rows), alpha=ALPHA, **how).loss
    loss.backward()
    return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("nll_scope", ["sequence", "completion"])
@pytest.mark.parametrize("engine", ["shared", "padded"])
@pytest.mark.parametrize(
    "split",
    [
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
        {"per_device_train_batch_size": 8, "max_tokens_per_microbatch": 60},
    ],
    ids=["one by one", "by tokens"],
)
def test_the_gradient_is_the_oracles(
    tmp_path: Path, split: dict[str, Any], engine: str, nll_scope: str
) -> None:
    settings = {"engine": engine, "nll_scope": nll_scope, "train_dataset": mixed_rows()}
    ours = step_gradients(str(tmp_path / "run"), **settings, **split)
    trainer = quiet_trainer(ORPOTrainer, str(tmp_path), **settings)
    assert relative_difference(ours, exact(trainer, nll_scope)[1]) < 1e-5


@pytest.mark.parametrize("alone", [False, True])
def test_the_evaluations_loss_is_the_oracles(tmp_path: Path, alone: bool) -> None:
    rows = mixed_rows(alone=alone)
    trainer = quiet_trainer(ORPOTrainer, str(tmp_path), train_dataset=rows, eval_dataset=rows)
    found = trainer.evaluate()
    assert found["eval_loss"] == pytest.approx(exact(trainer, "sequence")[0], rel=1e-5)


def test_metrics_compare_where_there_is_something_to_compare(tmp_path: Path) -> None:
    whole = [row for i, row in enumerate(mixed_rows()) if i not in WITHOUT]
    found = []
    for rows in (mixed_rows(), whole):
        trainer = quiet_trainer(ORPOTrainer, str(tmp_path), eval_dataset=rows)
        found.append(trainer.evaluate())
    for name in ("rewards/accuracies", "rewards/margins", "log_odds_chosen", "logps/rejected"):
        assert found[0][f"eval_{name}"] == pytest.approx(found[1][f"eval_{name}"], rel=1e-5)
    assert found[0]["eval_nll_loss"] != pytest.approx(found[1]["eval_nll_loss"], rel=1e-5)


def test_compute_metrics_sees_which_rows_have_no_rejected_answer(tmp_path: Path) -> None:
    seen: list[Any] = []
    trainer = quiet_trainer(ORPOTrainer, str(tmp_path), eval_dataset=mixed_rows())
    trainer.compute_metrics = lambda prediction: seen.append(prediction.predictions) or {}
    trainer.evaluate()
    chosen, rejected = seen[0]
    assert all(map(math.isfinite, chosen))
    assert {i for i, value in enumerate(rejected) if math.isnan(value)} == WITHOUT


def test_a_weight_of_one_changes_no_bit(tmp_path: Path) -> None:
    rows = [{**row, "weight": 1} for row in text_rows()]
    plain = step_gradients(str(tmp_path / "a"), **WAYS["8 at once"])
    weighted = step_gradients(str(tmp_path / "b"), train_dataset=rows, **WAYS["8 at once"])
    assert relative_difference(weighted, plain) == 0


def test_a_step_of_rows_without_rejected_answer(tmp_path: Path) -> None:
    rows = mixed_rows()
    settings = {"logging_steps": 1, "per_device_train_batch_size": 1, "max_steps": 2}
    given = {"train_dataset": [rows[1], rows[0]], "learning_rate": 1e-3, **settings}
    trainer = quiet_trainer(ORPOTrainer, str(tmp_path), **given)
    trainer.train()
    logged = [line for line in trainer.state.log_history if "nll_loss" in line]
    assert [line["log_odds_ratio"] == 0 for line in logged] == [True, False]
    assert all(math.isfinite(line["loss"]) for line in logged)
    rows = [{**row, "rejected": None} for row in text_rows()]
    with pytest.raises(DataError, match="no row has a rejected answer"):
        quiet_trainer(ORPOTrainer, str(tmp_path), train_dataset=rows)


def test_counting_pairs_as_rows_would_be_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(batches: Any, nll_scope: str, device: torch.device) -> Tensor:
        counts = right(batches, nll_scope, device)
        counts[0, 1] = counts[0, 2]
        return counts

    right = step_loss.count_items
    monkeypatch.setattr("orpo.train.trainer.count_items", wrong)
    rows = mixed_rows()
    found = step_gradients(str(tmp_path), train_dataset=rows, per_device_train_batch_size=8)
    trainer = quiet_trainer(ORPOTrainer, str(tmp_path), train_dataset=rows)
    assert relative_difference(found, exact(trainer, "sequence")[1]) > 1e-3
