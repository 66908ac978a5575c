"""A loss or a gradient that is not finite stops the run before it spoils the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from orpo import NonFiniteError, ORPOTrainer
from orpo.train.guards import NonFiniteGuard
from tests.train.small import byte_tokenizer, text_rows, tiny_llama

Make = Callable[..., ORPOTrainer]

MARKER = "~"


def rows_with_marker(*marked: int) -> list[dict[str, str]]:
    rows = text_rows()
    for index in marked:
        rows[index]["rejected"] += MARKER
    return rows


@contextmanager
def spoil_marked_rows(model: nn.Module, value: float) -> Iterator[None]:
    """While open, the marker's embedding is `value`, and so is what attends to it."""
    (marker,) = byte_tokenizer()(MARKER)["input_ids"]

    def spoil(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return torch.where((args[0] == marker)[..., None], value, output)

    handle = model.get_input_embeddings().register_forward_hook(spoil)
    yield
    handle.remove()


class Snapshots(TrainerCallback):
    """The weights after every optimizer step that was taken."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def on_step_end(self, *args: Any, model: nn.Module, **kwargs: Any) -> None:
        self.weights.append(copy.deepcopy(model.state_dict()))


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


SETTINGS: dict[str, Any] = {
    "max_steps": 3,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "train_sampling_strategy": "sequential",
}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("tokens", [None, 200])
def test_a_spoilt_loss_names_the_step_and_the_row_and_takes_no_step(
    make_trainer: Make, value: float, tokens: int | None
) -> None:
    snapshots = Snapshots()
    trainer = make_trainer(
        train_dataset=rows_with_marker(5),
        callbacks=[snapshots],
        max_tokens_per_microbatch=tokens,
        **SETTINGS,
    )
    message = r"the loss is not finite at optimizer step 2 \(rows 5\); the step was not taken"
    with spoil_marked_rows(trainer.model, value), pytest.raises(NonFiniteError, match=message):
        trainer.train()
    assert len(snapshots.weights) == 1
    assert same(trainer.model.state_dict(), snapshots.weights[0])
    assert not same(trainer.model.state_dict(), tiny_llama().state_dict())  # step 1 was taken


def test_every_spoilt_row_of_the_step_is_named(make_trainer: Make) -> None:
    trainer = make_trainer(train_dataset=rows_with_marker(0, 3, 6), **SETTINGS)
    with (
        spoil_marked_rows(trainer.model, float("nan")),
        pytest.raises(NonFiniteError, match=r"step 1 \(rows 0, 3\)"),
    ):
        trainer.train()
    assert same(trainer.model.state_dict(), tiny_llama().state_dict())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_a_spoilt_gradient_names_the_step_and_its_rows(
    make_trainer: Make, value: float, max_grad_norm: float
) -> None:
    snapshots = Snapshots()
    trainer = make_trainer(
        train_dataset=text_rows(), callbacks=[snapshots], max_grad_norm=max_grad_norm, **SETTINGS
    )
    weight = trainer.model.model.layers[1].mlp.up_proj.weight

    def spoil(gradient: Tensor) -> Tensor:
        if trainer.state.global_step == 1:
            gradient = gradient.clone()
            gradient[3, 4] = value
        return gradient

    weight.register_hook(spoil)
    message = r"a gradient is not finite at optimizer step 2 \(rows 4, 5, 6, 7\)"
    with pytest.raises(NonFiniteError, match=message):
        trainer.train()
    assert same(trainer.model.state_dict(), snapshots.weights[-1])
    assert len(snapshots.weights) == 1


def test_a_stopped_run_leaves_nothing_behind_for_the_next(make_trainer: Make) -> None:
    """Sums and rows of the step that was not taken must not reach the next run's log."""
    rows = rows_with_marker(1)
    trainer = make_trainer(train_dataset=rows, **SETTINGS)
    with spoil_marked_rows(trainer.model, float("nan")), pytest.raises(NonFiniteError):
        trainer.train()
    trainer.train()
    fresh = make_trainer(train_dataset=rows, **SETTINGS)
    fresh.train()
    again, once = trainer.state.log_history[0], fresh.state.log_history[0]
    for name in ("loss", "nll_loss", "log_odds_ratio", "logps/rejected"):
        assert again[name] == once[name], name


def test_rows_are_numbered_as_in_the_data_set(make_trainer: Make) -> None:
    """A dropped row keeps its number, so that a message points at the user's own rows."""
    rows = rows_with_marker(5)
    rows[2]["chosen"] = rows[2]["rejected"]  # dropped: both answers are the same
    trainer = make_trainer(train_dataset=rows, per_device_train_batch_size=8)
    assert trainer.ledgers["train_dataset"].dropped == {"identical_answers": 1}
    with (
        spoil_marked_rows(trainer.model, float("nan")),
        pytest.raises(NonFiniteError, match=r"\(rows 5\)"),
    ):
        trainer.train()


def test_an_evaluation_shows_what_is_not_finite(make_trainer: Make) -> None:
    trainer = make_trainer(eval_dataset=rows_with_marker(2))
    with spoil_marked_rows(trainer.model, float("nan")):
        assert torch.tensor(trainer.evaluate()["eval_loss"]).isnan()


def test_without_the_guard_the_weights_would_be_spoilt(make_trainer: Make) -> None:
    trainer = make_trainer(train_dataset=rows_with_marker(5), **SETTINGS)
    trainer.remove_callback(NonFiniteGuard)
    with spoil_marked_rows(trainer.model, float("nan")):
        trainer.train()
    assert any(bool(weight.isnan().any()) for weight in trainer.model.parameters())


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """One process that shards as many do."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("value", [1.0, float("nan"), float("inf")])
def test_sharded_gradients_are_looked_at_where_they_lie(mesh: DeviceMesh, value: float) -> None:
    model = nn.Linear(3, 2)
    for weight in (model.weight, model.bias):
        sharded = nn.Parameter(distribute_tensor(weight.detach(), mesh, [Shard(0)]))
        sharded.grad = distribute_tensor(torch.full_like(weight, value), mesh, [Shard(0)])
        name = "weight" if weight.dim() == 2 else "bias"
        setattr(model, name, sharded)
    guard, state = NonFiniteGuard(), TrainerState()
    args = TrainingArguments(output_dir="unused", use_cpu=True, dataloader_pin_memory=False)
    if value == 1.0:
        guard.on_pre_optimizer_step(args, state, TrainerControl(), model=model)
    else:
        with pytest.raises(NonFiniteError, match=r"a gradient .* step 1 \(rows unknown\)"):
            guard.on_pre_optimizer_step(args, state, TrainerControl(), model=model)
