"""What a run needs of its surroundings is known before its model is loaded, in one line."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from transformers import TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from orpo import ConfigError, ORPOConfig, ORPOTrainer
from orpo.engine.memory import MemoryEstimate
from orpo.engine.padded import PaddedEngine
from orpo.engine.shared import SharedEngine
from orpo.train.memory import (
    LongestPair,
    check_memory,
    longest_pair,
    optimizer_bytes,
    pair_lengths,
)
from tests.train.small import Stream, byte_tokenizer, text_rows, tiny_llama

Make = Callable[..., ORPOTrainer]
EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset": text_rows(4)}
FOLLOWING = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)


def refused(make: Callable[[], Any], where: str) -> str:
    """What is said, in one line and of that setting, instead of making it."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.where == where
    assert "\n" not in str(caught.value)
    return str(caught.value)


def unloaded(config: ORPOConfig, **more: Any) -> ORPOTrainer:
    """A trainer of a model that is not there: whatever is said of it is said too late."""
    return ORPOTrainer(model="./no-such-model", args=config, train_dataset=text_rows(), **more)


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("name", [name.value for name in OptimizerNames])
def test_an_optimizer_takes_its_step_or_is_refused_ahead_of_the_model(
    make_trainer: Make, make_config: Callable[..., ORPOConfig], name: str
) -> None:
    try:
        trainer = make_trainer(optim=name, engine="padded", train_dataset=text_rows())
    except ConfigError:
        assert "optim: " in refused(lambda: unloaded(make_config(optim=name)), "optim")
        assert name not in {"adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "adafactor"}
        return
    trainer.train()
    assert trainer.state.global_step == 1


POLYNOMIAL = {"lr_scheduler_type": "polynomial", "max_steps": 4}
CHECKPOINTED = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"bogus": 1}}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("optim", {"optim": "sgd", "optim_args": "momentum=much"}, "could not convert string to float"),
    ("optim", {"optim": "sgd", "optim_args": "nesterov"}, "not enough values"),
    ("optim", {"optim": "sgd", "optim_args": "nesterov=true"}, "momentum"),
    ("optim", {"adam_beta2": 1.5}, "beta"),
    ("optim", {"adam_beta1": -0.1}, "beta"),
    *(
        ("lr_scheduler_type", {**POLYNOMIAL, "lr_scheduler_kwargs": kwargs}, "")
        for kwargs in ({"bogus": 1}, {"power": "x"}, {"num_cycles": 1}, {"power": 0.5j})
    ),
    ("fsdp", {"fsdp": "full_shard"}, ""),
    ("fsdp", {"fsdp": True}, ""),
    ("use_liger_kernel", {"use_liger_kernel": True}, ""),
    ("push_to_hub", {"push_to_hub": True, "hub_token": "hf_" + "x" * 30}, ""),
    ("dataloader_num_workers", {"dataloader_persistent_workers": True}, ""),
    ("gradient_checkpointing_kwargs", CHECKPOINTED, ""),
    ("seed", {"seed": 2**32}, ""),
    *(("report_to", {"report_to": name}, name) for name in ("wandb", "mlflow", "comet_ml")),
    *(("report_to", {"report_to": names}, "bogus") for names in ("bogus", ["bogus", "wandb"])),
    ("report_to", {"report_to": "tensorbord"}, "Did you mean tensorboard?"),
]


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(("where", "settings", "said"), REFUSED)
def test_what_is_missing_is_said_ahead_of_the_model(
    make_config: Callable[..., ORPOConfig],
    capfd: pytest.CaptureFixture[str],
    where: str,
    settings: dict[str, Any],
    said: str,
) -> None:
    package = {"use_liger_kernel": "liger_kernel", "report_to": said}.get(where, "bogus")
    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    message = refused(lambda: unloaded(make_config(**settings)), where)
    assert said in message
    assert "hf_x" not in message
    assert "Exception ignored" not in capfd.readouterr().err


SCHEDULES: list[tuple[str, Any]] = [
    *((name.value, None) for name in SchedulerType),
    ("cosine_with_min_lr", {"min_lr": 1e-7}),
    ("cosine_warmup_with_min_lr", '{"min_lr_rate": 0.1}'),
    ("warmup_stable_decay", {"num_decay_steps": 1}),
    ("polynomial", {"power": 2.0}),
    ("cosine_with_restarts", {"num_cycles": 2}),
]
NEED_MORE = {"cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay"}


@pytest.mark.parametrize(("name", "kwargs"), SCHEDULES)
def test_a_schedule_is_followed_or_refused_ahead_of_the_model(
    make_trainer: Make, make_config: Callable[..., ORPOConfig], name: str, kwargs: Any
) -> None:
    settings = {"lr_scheduler_type": name, "max_steps": 2, "engine": "padded"}
    settings |= {"warmup_steps": 0.1} if kwargs is None else {"lr_scheduler_kwargs": kwargs}
    if name in NEED_MORE and kwargs is None:
        assert name in refused(lambda: unloaded(make_config(**settings)), "lr_scheduler_type")
        return
    given = EVALUATED if name in FOLLOWING else {}
    trainer = make_trainer(train_dataset=text_rows(), **settings, **given)
    trainer.train()
    assert trainer.state.global_step == 2


def test_a_schedule_is_tried_over_the_steps_that_the_data_make(make_trainer: Make) -> None:
    """transformers divides by the steps that are left after warming up: here there are none."""
    settings = {"lr_scheduler_type": "polynomial", "max_steps": -1, "num_train_epochs": 1}
    data = {"train_dataset": text_rows(8), "per_device_train_batch_size": 4}
    said = refused(lambda: make_trainer(**settings, **data, warmup_steps=2), "lr_scheduler_type")
    assert "polynomial of 2 steps (2 of warm-up)" in said
    make_trainer(**settings, **data, warmup_steps=1).train()


def test_a_tracker_that_cannot_begin_is_told_in_one_line_and_a_callback_of_ones_own_not(
    make_trainer: Make,
) -> None:
    class Unreachable(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            get_reporting_integration_callbacks(["somewhere"])  # it raises in transformers

    class Broken(TrainerCallback):
        early = False

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            raise ValueError("mine")

        def on_init_end(self, *args: Any, **kwargs: Any) -> None:
            if self.early:
                raise ValueError("mine")

    trainer = make_trainer(train_dataset=text_rows(), callbacks=[Unreachable()])
    assert "somewhere is not supported" in refused(trainer.train, "report_to")
    trainer = make_trainer(train_dataset=text_rows(), callbacks=[Broken()])
    with pytest.raises(ValueError, match=r"^mine$"):
        trainer.train()
    Broken.early = True
    with pytest.raises(ValueError, match=r"^mine$"):
        make_trainer(train_dataset=text_rows(), callbacks=[Broken()])


BEST = {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1, **EVALUATED}
SETS = {"eval_dataset": {"easy": text_rows(4), "hard": text_rows(4)}}


@pytest.mark.parametrize(
    ("metric", "several", "fix"),
    [
        ("eval_rewards/accuracies", {}, None),
        (None, {}, None),
        ("eval_hard_rewards/margins", SETS, None),
        ("bogus", {}, ""),
        ("eval_reward/accuracy", {}, "rewards/accuracies"),
        ("losss", {}, "such as loss"),
        ("preference_accuracy", {}, ""),
        ("loss", SETS, "_loss"),
        (None, SETS, "_loss"),
        ("middle_loss", SETS, "_loss"),
    ],
)
def test_a_metric_decides_which_model_is_best_if_it_is_one(
    make_trainer: Make, metric: str | None, several: dict[str, Any], fix: str | None
) -> None:
    settings = {**BEST, **several, "metric_for_best_model": metric}
    make = lambda: make_trainer(train_dataset=text_rows(), **settings)  # noqa: E731
    if fix is None:
        trainer = make()
        trainer.train()
        assert trainer.state.best_global_step == 1
    else:
        said = refused(make, "metric_for_best_model")
        assert "nll_loss" in said
        assert fix in said.partition("Give one of them")[2]


def test_metrics_of_ones_own_may_decide(make_trainer: Make) -> None:
    settings = {**BEST, "metric_for_best_model": "mine", "greater_is_better": True}
    settings["compute_metrics"] = lambda _: {"eval_mine": 1.0}
    assert make_trainer(train_dataset=text_rows(), **settings).args.metric_for_best_model == "mine"


def test_what_is_given_as_objects_is_not_tried(make_config: Callable[..., ORPOConfig]) -> None:
    model = tiny_llama()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    settings = {"optim": "galore_adamw", "lr_scheduler_type": "cosine_with_min_lr"}
    given = {"train_dataset": text_rows(), "tokenizer": byte_tokenizer()}
    own = {"optimizers": (optimizer, schedule)}
    trainer = ORPOTrainer(model=model, args=make_config(**settings), **given, **own)
    trainer.train()
    assert trainer.state.global_step == 1


@pytest.mark.parametrize("kind", ["bitsandbytes", "gptq", "awq"])
def test_weights_that_are_stored_quantised_need_an_adapter(
    make_config: Callable[..., ORPOConfig], tmp_path: Path, kind: str
) -> None:
    model = tiny_llama()
    model.config.quantization_config = {"quant_method": kind, "load_in_4bit": True, "bits": 4}
    model.config.save_pretrained(tmp_path / kind)  # the weights are not looked for
    where = str(tmp_path / kind)
    said = refused(
        lambda: ORPOTrainer(model=where, args=make_config(), train_dataset=text_rows()), where
    )
    assert f"stored quantised ({kind})" in said
    assert "--lora_r 16" in said


@pytest.mark.parametrize("given", ["tokenizer", "processing_class"])
def test_a_processor_is_no_tokenizer(make_trainer: Make, given: str) -> None:
    processor = SimpleNamespace(tokenizer=byte_tokenizer(), image_processor=None)
    said = refused(
        lambda: make_trainer(train_dataset=text_rows(), **{given: processor}), "tokenizer"
    )
    assert "processor.tokenizer" in said
    refused(lambda: make_trainer(train_dataset=text_rows(), **{given: "a/name"}), "tokenizer")


# What fits, and what does not

GIB = 2**30
PREPARED = [
    {"prompt_ids": [1] * p, "chosen_ids": [2] * c, "rejected_ids": [3] * r, "row": 10 + i}
    for i, (p, c, r) in enumerate([(5, 3, 3), (2, 9, 9), (4, 14, 1), (1, 1, 1)])
]


@pytest.mark.parametrize("kind", ["arrow", "selected", "list"])
def test_the_longest_pair_is_that_of_the_engine(kind: str) -> None:
    data = datasets.Dataset.from_list(PREPARED)
    given = {"arrow": data, "selected": data.select([3, 2, 1, 0]), "list": PREPARED}[kind]
    assert longest_pair(pair_lengths(given), SharedEngine()) == LongestPair(11, 20, 11)
    assert longest_pair(pair_lengths(given), PaddedEngine()) == LongestPair(12, 36, 18)
    assert longest_pair(pair_lengths(Stream(PREPARED)), SharedEngine()) is None  # nobody knows


def test_a_pair_that_does_not_fit_is_named() -> None:
    estimate = MemoryEstimate(2 * GIB, GIB // 1000, 4 * GIB, "cpu")
    check_memory(estimate, LongestPair(7, 1900, 1500))
    with pytest.raises(ConfigError) as caught:
        check_memory(estimate, LongestPair(7, 4000, 3000))
    text = str(caught.value)
    assert "train_dataset, row 7" in text
    assert "4000 positions needs about 6.0 GiB, and 4.0 GiB are there" in text
    assert "max_length to about 1500" in text
    assert "\n" not in text
    with pytest.raises(ConfigError, match=r"about 9.0 GiB .* and 4.0 GiB are there.*--lora"):
        check_memory(MemoryEstimate(9 * GIB, 1, 4 * GIB, "cpu"), None)


def test_training_stops_before_it_starts(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(train_dataset=text_rows(), max_steps=1)
    monkeypatch.setattr("orpo.engine.memory.available_bytes", lambda device: 1 << 16)
    with pytest.raises(ConfigError, match="gradients, optimizer states"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_little_memory_makes_small_micro_batches_and_the_same_loss(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"max_steps": 1, "per_device_train_batch_size": 8, "logging_steps": 1}
    losses = []
    for room in (None, 40):
        trainer = make_trainer(train_dataset=text_rows(), **settings)
        if room is not None:
            monkeypatch.setattr(MemoryEstimate, "max_tokens", room)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert trainer._max_tokens == 40
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    trainer = make_trainer(train_dataset=text_rows(), max_tokens_per_microbatch=33, **settings)
    trainer.train()
    assert trainer._max_tokens == 33  # what was asked for is taken


def test_states_of_the_optimizer() -> None:
    for optim, size in {"adamw_torch": 8, "adamw_8bit": 2, "adafactor": 0, "sgd": 0}.items():
        assert optimizer_bytes(ORPOConfig(optim=optim)) == size
