"""Optimizers whose weights to be used are others than those that are trained (schedule-free)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, TrainerCallback

from orpo import ORPOConfig, ORPOTrainer
from tests.train.small import byte_tokenizer, text_rows, tiny_llama

BETA = 0.9


class ScheduleFreeSGD(torch.optim.Optimizer):
    """y = (1 - beta) z + beta x is trained; x, the mean of all z, is to be used."""

    def __init__(self, params: Any, lr: float = 0.5) -> None:
        super().__init__(params, {"lr": lr, "train_mode": False, "k": 0})

    def _switch(self, *, train: bool) -> None:
        for group in self.param_groups:
            if group["train_mode"] != train:
                group["train_mode"] = train
                weight = 1 - BETA if train else 1 - 1 / BETA
                for p in group["params"]:
                    if "z" in self.state[p]:
                        p.data.lerp_(self.state[p]["z"], weight)

    def train(self) -> None:
        self._switch(train=True)

    def eval(self) -> None:
        self._switch(train=False)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            assert group["train_mode"]
            group["k"] += 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                z = self.state[p].setdefault("z", p.clone())
                x = p.lerp(z, 1 - 1 / BETA)
                z -= group["lr"] * p.grad
                x.lerp_(z, 1 / group["k"])
                p.copy_(z * (1 - BETA) + x * BETA)


def averaged(optimizer: Any, model: nn.Module) -> dict[str, Tensor]:
    """The weights to be used, out of those that are trained and the optimizer's own."""
    inner = getattr(optimizer, "optimizer", optimizer)
    found = {}
    for name, p in model.named_parameters():
        z = inner.state[p].get("z") if p in inner.state else None
        y = p.detach().clone()
        found[name] = y if z is None else y.lerp(z, 1 - 1 / BETA)
    return found


class Watch(TrainerCallback):
    """What the weights are at each save and each step, as trained and as to be used."""

    def __init__(self) -> None:
        self.to_be_used: dict[int, dict[str, Tensor]] = {}

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        self.to_be_used[state.global_step] = averaged(kwargs["optimizer"], model)


def make(folder: Path, **settings: Any) -> tuple[ORPOTrainer, Watch]:
    model, watch = tiny_llama(), Watch()
    given = {"max_steps": 6, "save_steps": 2, "logging_steps": 1, "max_length": 64, **settings}
    args = ORPOConfig(
        str(folder),
        use_cpu=True,
        report_to="none",
        lr_scheduler_type="constant",
        per_device_train_batch_size=2,
        **given,
    )
    trainer = ORPOTrainer(
        model=model,
        args=args,
        train_dataset=text_rows(),
        eval_dataset=text_rows(4),
        tokenizer=byte_tokenizer(),
        optimizers=(ScheduleFreeSGD(model.parameters()), None),
        callbacks=[watch],
    )
    return trainer, watch


def saved(folder: Path) -> dict[str, Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())


def same(one: dict[str, Tensor], other: dict[str, Tensor], *, exact: bool = False) -> bool:
    close = torch.equal if exact else torch.allclose
    return all(close(one[name], other[name]) for name in one)


def test_what_is_saved_is_to_be_used(tmp_path: Path) -> None:
    trainer, watch = make(tmp_path)
    trainer.train()
    trainer.save_model()
    for step in (2, 4, 6):
        assert same(saved(tmp_path / f"checkpoint-{step}"), watch.to_be_used[step]), step
    assert same(saved(tmp_path), watch.to_be_used[6])
    assert same(dict(trainer.model.named_parameters()), watch.to_be_used[6])


def test_looking_does_not_change_the_training(tmp_path: Path) -> None:
    """Saved and evaluated at every step, or never: the same weights to the bit."""
    quiet, _ = make(tmp_path / "quiet", save_strategy="no")
    quiet.train()
    looked_at, _ = make(tmp_path / "often", save_steps=1, eval_strategy="steps", eval_steps=1)
    looked_at.train()
    ours, theirs = (dict(t.model.named_parameters()) for t in (quiet, looked_at))
    assert same(ours, theirs, exact=True)


def test_an_evaluation_is_of_the_weights_to_be_used(tmp_path: Path) -> None:
    trainer, _ = make(tmp_path, eval_strategy="steps", eval_steps=2)
    trainer.train()
    logged = {e["step"]: e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e}
    for step in (2, 4, 6):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / f"checkpoint-{step}")
        args = ORPOConfig(str(tmp_path / "x"), use_cpu=True, report_to="none", max_length=64)
        other = ORPOTrainer(
            model=model, args=args, eval_dataset=text_rows(4), tokenizer=byte_tokenizer()
        )
        assert other.evaluate()["eval_loss"] == pytest.approx(logged[step], abs=1e-6)


@pytest.mark.parametrize("step", [2, 4, 6])
def test_a_run_that_goes_on_is_the_run_that_was_not_stopped(tmp_path: Path, step: int) -> None:
    whole, _ = make(tmp_path / "run")
    whole.train()
    again, _ = make(tmp_path / "run")
    again.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
    ours, theirs = (dict(t.model.named_parameters()) for t in (whole, again))
    assert same(ours, theirs, exact=True)


def test_the_best_weights_are_used_as_they_were_saved(tmp_path: Path) -> None:
    trainer, watch = make(
        tmp_path,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # the first one, so that it is not the last
    )
    trainer.train()
    best = int(str(trainer.state.best_model_checkpoint).rsplit("-", 1)[-1])
    assert best < 6
    assert same(dict(trainer.model.named_parameters()), watch.to_be_used[best])
    trainer.save_model()
    assert same(saved(tmp_path), watch.to_be_used[best])


def test_other_optimizers_keep_no_second_weights(tmp_path: Path) -> None:
    args = ORPOConfig(
        str(tmp_path), use_cpu=True, report_to="none", max_steps=1, max_length=64, save_steps=1
    )
    ORPOTrainer(
        model=tiny_llama(), args=args, train_dataset=text_rows(), tokenizer=byte_tokenizer()
    ).train()
    assert not (tmp_path / "checkpoint-1" / "train_weights.pt").exists()
