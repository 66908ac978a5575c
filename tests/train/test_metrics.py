"""What is logged: TRL's names, and exact means over accumulation and logging intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from orpo import ORPOTrainer
from tests.train.oracle_fp64 import in_fp64, orpo, pairs_of
from tests.train.small import text_rows, tiny_llama

Make = Callable[..., ORPOTrainer]

NAMES = {
    "loss",
    "nll_loss",
    "log_odds_ratio",
    "log_odds_chosen",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
}


def logged(trainer: ORPOTrainer) -> list[dict[str, float]]:
    return [line for line in trainer.state.log_history if "loss" in line]


def expected_metrics(pairs: list[Any], alpha: float, beta: float) -> dict[str, float]:
    """The means over some pairs, by the unchanged model."""
    with torch.no_grad():
        oracle = orpo(in_fp64(tiny_llama()), pairs, alpha=alpha, beta=beta)
    chosen, rejected = oracle.chosen_logps.mean(), oracle.rejected_logps.mean()
    scale = alpha * beta
    found: dict[str, float | Tensor] = {
        "loss": oracle.loss,
        "nll_loss": oracle.nll_loss,
        "log_odds_ratio": oracle.log_odds_ratio,
        "log_odds_chosen": oracle.log_odds_chosen,
        "rewards/chosen": scale * chosen,
        "rewards/rejected": scale * rejected,
        "rewards/margins": scale * (chosen - rejected),
        "rewards/accuracies": oracle.accuracy,
        "logps/chosen": chosen,
        "logps/rejected": rejected,
    }
    return {name: float(value) for name, value in found.items()}


def test_names_are_those_of_trl(make_trainer: Make) -> None:
    trainer = make_trainer(train_dataset=text_rows(), eval_dataset=text_rows())
    evaluation = trainer.evaluate()
    trainer.train()
    (line,) = logged(trainer)
    assert line.keys() >= NAMES | {"grad_norm", "learning_rate", "epoch", "tokens_per_second"}
    assert evaluation.keys() >= {f"eval_{name}" for name in NAMES}
    assert not any(name.startswith("logits/") for name in line)  # never kept


@pytest.mark.parametrize(
    "settings",
    [
        {"per_device_train_batch_size": 8},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
        | {"max_tokens_per_microbatch": 150},
    ],
    ids=["at once", "accumulated", "by tokens"],
)
def test_one_line_holds_the_means_over_all_its_steps(
    make_trainer: Make, settings: dict[str, Any]
) -> None:
    """Three steps of eight pairs with a learning rate of zero: the model stays what it was."""
    trainer = make_trainer(
        train_dataset=text_rows(24),
        max_steps=3,
        logging_steps=3,
        learning_rate=0.0,
        train_sampling_strategy="sequential",
        orpo_alpha=0.4,
        orpo_beta=0.6,
        **settings,
    )
    trainer.train()
    (line,) = logged(trainer)
    pairs = pairs_of(trainer.train_dataset)
    expected = expected_metrics(pairs, 0.4, 0.6)
    steps = [expected_metrics(pairs[i : i + 8], 0.4, 0.6)["loss"] for i in (0, 8, 16)]
    expected["loss"] = sum(steps) / 3  # each optimizer step counts alike
    found = {name: line[name] for name in NAMES}
    assert found == pytest.approx(expected, rel=1e-5)


def test_every_line_starts_again_from_nothing(make_trainer: Make) -> None:
    trainer = make_trainer(
        train_dataset=text_rows(24),
        max_steps=6,
        logging_steps=2,
        learning_rate=0.0,
        per_device_train_batch_size=4,
        train_sampling_strategy="sequential",
    )
    trainer.train()
    lines = logged(trainer)
    assert [line["step"] for line in lines] == [2, 4, 6]
    pairs = pairs_of(trainer.train_dataset)
    for i, line in enumerate(lines):
        expected = expected_metrics(pairs[8 * i : 8 * i + 8], 0.1, 1.0)
        assert line["nll_loss"] == pytest.approx(expected["nll_loss"], rel=1e-5)
        assert line["rewards/margins"] == pytest.approx(expected["rewards/margins"], rel=1e-4)


def test_an_evaluation_leaves_the_training_metrics_alone(make_trainer: Make) -> None:
    plain, evaluated = (
        make_trainer(
            train_dataset=text_rows(),
            eval_dataset=text_rows(5),
            max_steps=4,
            logging_steps=4,
            per_device_train_batch_size=2,
            **settings,
        )
        for settings in ({}, {"eval_strategy": "steps", "eval_steps": 1})
    )
    plain.train()
    evaluated.train()
    for name in NAMES:
        assert logged(evaluated)[0][name] == logged(plain)[0][name], name


def test_the_last_step_is_logged_whatever_the_interval(make_trainer: Make) -> None:
    trainer = make_trainer(train_dataset=text_rows(), max_steps=5, logging_steps=3)
    trainer.train()
    assert [line["step"] for line in logged(trainer)] == [3, 5]
    short = make_trainer(train_dataset=text_rows(), max_steps=2, logging_steps=10)
    short.train()
    assert [line["step"] for line in logged(short)] == [2]


def test_no_logging_means_none(make_trainer: Make) -> None:
    trainer = make_trainer(train_dataset=text_rows(), logging_strategy="no", max_steps=2)
    trainer.train()
    assert logged(trainer) == []


def test_tokens_seen_count_both_answers(make_trainer: Make) -> None:
    trainer = make_trainer(
        train_dataset=text_rows(),
        per_device_train_batch_size=8,
        include_num_input_tokens_seen="non_padding",
    )
    trainer.train()
    tokens = sum(2 * len(p) + len(c) + len(r) for p, c, r in pairs_of(trainer.train_dataset))
    assert trainer.state.num_input_tokens_seen == tokens


def test_floating_point_operations_are_counted(make_trainer: Make) -> None:
    trainer = make_trainer(train_dataset=text_rows(2), per_device_train_batch_size=2)
    trainer.train()
    tokens = 0
    for prompt, chosen, rejected in pairs_of(trainer.train_dataset):
        same = [a == b for a, b in zip(chosen, rejected, strict=False)]
        shared = [*same, False].index(False)  # the answers' common beginning is computed once
        tokens += len(prompt) + len(chosen) + len(rejected) - shared
    body = tiny_llama().num_parameters(exclude_embeddings=True)
    assert trainer.state.total_flos == 6 * body * tokens
