"""Optimizers whose weights to be used are others than those that are trained (schedule-free)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import TrainerCallback

from orpo import ORPOTrainer
from tests.train.one_step import any_trainer
from tests.train.small import text_rows, tiny_llama
from tests.train.whole_runs import looks_killed, same_bits

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


class Watch(TrainerCallback):
    """The weights to be used after each step, out of those trained and the optimizer's own."""

    def __init__(self) -> None:
        self.to_be_used: dict[int, dict[str, Tensor]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        inner = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])
        found = self.to_be_used[state.global_step] = {}
        for name, p in kwargs["model"].named_parameters():
            z = inner.state[p].get("z") if p in inner.state else None
            y = p.detach().clone()
            found[name] = y if z is None else y.lerp(z, 1 - 1 / BETA)


def make(folder: Path, **settings: Any) -> tuple[ORPOTrainer, Watch]:
    model, watch = tiny_llama(), Watch()
    plan = {"max_steps": 6, "save_steps": 2, "logging_steps": 1, "max_length": 64}
    plan |= {"save_strategy": "steps", "eval_strategy": "steps", "eval_steps": 2, **settings}
    trainer = any_trainer(
        output_dir=str(folder),
        lr_scheduler_type="constant",
        per_device_train_batch_size=2,
        model=model,
        train_dataset=text_rows(),
        eval_dataset=text_rows(4),
        optimizers=(ScheduleFreeSGD(model.parameters()), None),
        callbacks=[watch],
        **plan,
    )
    return trainer, watch


def same(model: nn.Module | Path, expected: dict[str, Tensor]) -> bool:
    if isinstance(model, Path):
        found = load_file(model / "model.safetensors")
        return all(torch.allclose(found[name], expected[name]) for name in found)
    return all(torch.allclose(p, expected[name]) for name, p in model.named_parameters())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ORPOTrainer, Watch]:
    """A run that saved and evaluated at every second step."""
    folder = tmp_path_factory.mktemp("switching") / "run"
    trainer, watch = make(folder)
    trainer.train()
    trainer.save_model()
    return folder, trainer, watch


def test_what_is_saved_and_evaluated_is_to_be_used(
    whole: tuple[Path, ORPOTrainer, Watch], tmp_path: Path
) -> None:
    folder, trainer, watch = whole
    logged = {e["step"]: e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e}
    for step in (2, 4, 6):
        saved = folder / f"checkpoint-{step}"
        assert same(saved, watch.to_be_used[step]), step
        given = {"model": str(saved), "eval_dataset": text_rows(4), "max_length": 64}
        other = any_trainer(output_dir=str(tmp_path), **given)
        assert other.evaluate()["eval_loss"] == pytest.approx(logged[step], abs=1e-6)
    assert same(folder, watch.to_be_used[6])
    assert same(trainer.model, watch.to_be_used[6])


@pytest.mark.parametrize(
    "how", [{"save_strategy": "no", "eval_strategy": "no"}, {"save_steps": 1, "eval_steps": 1}]
)
def test_looking_does_not_change_the_training(
    whole: tuple[Path, ORPOTrainer, Watch], tmp_path: Path, how: dict[str, Any]
) -> None:
    """Saved and evaluated at every step, or never: the same weights to the bit."""
    trainer, _ = make(tmp_path, **how)
    trainer.train()
    assert same_bits(trainer.model.parameters(), whole[1].model.parameters())


@pytest.mark.parametrize("step", [2, 6])
def test_a_run_that_goes_on_is_the_run_that_was_not_stopped(
    whole: tuple[Path, ORPOTrainer, Watch], tmp_path: Path, step: int
) -> None:
    again, _ = make(looks_killed(whole[0], tmp_path / "run", step))
    again.train(resume_from_checkpoint=True)
    assert same_bits(again.model.parameters(), whole[1].model.parameters())


def test_the_best_weights_are_used_as_they_were_saved(tmp_path: Path) -> None:
    """The larger the loss the better, so that the best one is not the last."""
    best_of = {"metric_for_best_model": "eval_loss", "greater_is_better": True}
    trainer, watch = make(tmp_path, load_best_model_at_end=True, **best_of)
    trainer.train()
    best = trainer.state.best_global_step
    assert best is not None
    assert best < 6
    assert same(trainer.model, watch.to_be_used[best])
    trainer.save_model()
    assert same(tmp_path, watch.to_be_used[best])


def test_other_optimizers_keep_no_second_weights(tmp_path: Path) -> None:
    any_trainer(
        output_dir=str(tmp_path), train_dataset=text_rows(), save_strategy="steps", save_steps=1
    ).train()
    assert (tmp_path / "checkpoint-1").is_dir()
    assert not (tmp_path / "checkpoint-1" / "train_weights.pt").exists()
