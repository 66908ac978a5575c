"""What is logged: TRL's names, and exact means over accumulation and logging intervals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from orpo import ORPOTrainer
from orpo.runs.diagnosis import examine_folder
from orpo.runs.files import read_recipe
from tests.train.oracle_fp64 import in_fp64, orpo, pairs_of
from tests.train.small import text_rows, tiny_llama
from tests.train.whole_runs import losses_of

Make = Callable[..., ORPOTrainer]


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
def test_a_line_holds_the_means_over_all_its_steps_and_the_next_starts_from_nothing(
    make_trainer: Make, settings: dict[str, Any]
) -> None:
    """Steps of eight pairs with a learning rate of zero: the model stays what it was."""
    trainer = make_trainer(
        train_dataset=text_rows(24),
        max_steps=3,
        logging_steps=2,
        learning_rate=0.0,
        train_sampling_strategy="sequential",
        orpo_alpha=0.4,
        orpo_beta=0.6,
        **settings,
    )
    trainer.train()
    pairs = pairs_of(trainer.train_dataset)
    assert [line["step"] for line in losses_of(trainer)] == [2, 3]  # the last one in any case
    for line, steps in zip(losses_of(trainer), ((0, 8), (16,)), strict=True):
        expected = expected_metrics(pairs[steps[0] : steps[-1] + 8], 0.4, 0.6)
        losses = [expected_metrics(pairs[i : i + 8], 0.4, 0.6)["loss"] for i in steps]
        expected["loss"] = sum(losses) / len(losses)  # each optimizer step counts alike
        assert {name: line[name] for name in expected} == pytest.approx(expected, rel=1e-5)
        assert line.keys() >= {"grad_norm", "learning_rate", "epoch", "tokens_per_second"}
        assert not any(name.startswith("logits/") for name in line)  # never kept


def test_an_evaluation_leaves_the_training_metrics_alone(make_trainer: Make) -> None:
    lines = []
    for settings in ({}, {"eval_strategy": "steps", "eval_steps": 1}):
        data = {"train_dataset": text_rows(), "eval_dataset": text_rows(5)}
        plan = {"max_steps": 4, "logging_steps": 10, "per_device_train_batch_size": 2}
        trainer = make_trainer(**data, **plan, **settings)
        trainer.train()
        (line,) = losses_of(trainer)
        lines.append({name: value for name, value in line.items() if "per_second" not in name})
    assert lines[0] == lines[1]
    evaluated = trainer.state.log_history[0]
    assert evaluated.keys() >= {
        f"eval_{name}" for name in expected_metrics([([1], [2, 3], [4, 5])], 1, 1)
    }


@pytest.mark.parametrize(
    ("settings", "every"),
    [
        *(({"max_steps": steps}, every) for steps, every in ((1, 1), (59, 1), (60, 2), (9000, 10))),
        ({"max_steps": -1, "num_train_epochs": 45, "per_device_train_batch_size": 8}, 4),
        ({"max_steps": 120, "stream": True}, 4),
        ({"max_steps": 9000, "logging_steps": 7}, 7),
        ({"max_steps": 9, "logging_steps": 0.5}, 0.5),
    ],
)
def test_unasked_a_run_has_thirty_logs_and_one_every_ten_steps(
    make_trainer: Make, settings: dict[str, Any], every: float
) -> None:
    """Decided once the steps are known: of max_steps, epochs, a stream; 45 epochs take 135."""
    given = {"logging_steps": None, **settings}
    rows: Any = text_rows(24)
    if given.pop("stream", False):
        rows = Dataset.from_list(rows).to_iterable_dataset()
    trainer = make_trainer(train_dataset=rows, **given)
    trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    assert trainer.args.logging_steps == every


def test_a_run_that_goes_on_is_logged_as_it_began(make_trainer: Make, tmp_path: Path) -> None:
    plan = {"save_strategy": "steps", "save_steps": 4, "lr_scheduler_type": "constant"}
    lines = {}
    for asked in (None, 3):
        folder = tmp_path / str(asked)
        settings = {**plan, "output_dir": str(folder), "train_dataset": text_rows()}
        make_trainer(logging_steps=asked, max_steps=4, **settings).train()
        second = make_trainer(logging_steps=None, max_steps=7, **settings)
        second.train(resume_from_checkpoint=True)
        found = examine_folder(str(folder), lambda _: None)
        assert (found.metrics.gaps, found.problems) == ([], [])
        assert read_recipe(folder)["logging_steps"] == (asked or 1)
        lines[asked] = [line["step"] for line in losses_of(second)]
    assert lines == {None: [1, 2, 3, 4, 5, 6, 7], 3: [3, 4, 6, 7]}


def test_no_logging_means_none(make_trainer: Make) -> None:
    trainer = make_trainer(train_dataset=text_rows(), logging_strategy="no", max_steps=2)
    trainer.train()
    assert losses_of(trainer) == []


def test_tokens_and_floating_point_operations_are_counted(make_trainer: Make) -> None:
    """Tokens of both answers with their prompts; of operations what was computed."""
    seen = {"include_num_input_tokens_seen": "non_padding"}
    trainer = make_trainer(train_dataset=text_rows(2), per_device_train_batch_size=2, **seen)
    trainer.train()
    tokens, computed = 0, 0
    for prompt, chosen, rejected in pairs_of(trainer.train_dataset):
        same = [a == b for a, b in zip(chosen, rejected, strict=False)]
        tokens += 2 * len(prompt) + len(chosen) + len(rejected)
        # The answers' common beginning is computed once, as the prompt is.
        computed += len(prompt) + len(chosen) + len(rejected) - [*same, False].index(False)
    assert trainer.state.num_input_tokens_seen == tokens
    body = tiny_llama().num_parameters(exclude_embeddings=True)
    assert trainer.state.total_flos == 6 * body * computed
