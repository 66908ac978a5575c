"""A loss or a gradient that is not finite stops the run before it spoils the weights."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from orpo import ConfigError, NonFiniteError, ORPOConfig, ORPOTrainer
from orpo.train.guards.nonfinite import NonFiniteGuard
from orpo.train.metrics import COLUMNS
from tests import forked
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


@pytest.mark.parametrize(
    "settings", [{}, {"max_grad_norm": 0.01}, {"max_tokens_per_microbatch": 200}]
)
def test_clipping_with_the_guards_own_norm_is_the_usual_clipping(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    def weights() -> tuple[dict[str, Tensor], list[Any]]:
        trainer = make_trainer(train_dataset=text_rows(), logging_steps=1, **(SETTINGS | settings))
        trainer.train()
        norms = [line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line]
        return copy.deepcopy(trainer.model.state_dict()), norms

    passes = []
    usual = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda *a, **k: passes.append(1) or usual(*a, **k)
    )
    ours, our_norms = weights()
    assert not passes
    monkeypatch.setattr(NonFiniteGuard, "total_norm", lambda self: None)
    theirs, their_norms = weights()
    assert len(passes) == SETTINGS["max_steps"] == len(our_norms)
    assert same(ours, theirs)
    assert our_norms == their_norms


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
def test_sharded_gradients_are_looked_at_where_they_lie(
    mesh: DeviceMesh, value: float, tmp_path: Path
) -> None:
    model = nn.Linear(3, 2)
    for weight in (model.weight, model.bias):
        sharded = nn.Parameter(distribute_tensor(weight.detach(), mesh, [Shard(0)]))
        sharded.grad = distribute_tensor(torch.full_like(weight, value), mesh, [Shard(0)])
        name = "weight" if weight.dim() == 2 else "bias"
        setattr(model, name, sharded)
    guard, state = NonFiniteGuard(), TrainerState()
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, dataloader_pin_memory=False)
    if value == 1.0:
        guard.on_pre_optimizer_step(args, state, TrainerControl(), model=model)
    else:
        with pytest.raises(NonFiniteError, match=r"a gradient .* step 1 \(rows unknown\)"):
            guard.on_pre_optimizer_step(args, state, TrainerControl(), model=model)
        assert read_offence(tmp_path, 1)["parameters"] == ["weight", "bias"]


# What is written for inspection


def read_offence(folder: Path, step: int) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not strict JSON")

    text = (folder / f"nonfinite-step-{step}.json").read_text()
    found: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return found


def test_the_batch_of_a_spoilt_loss_is_written(make_trainer: Make, tmp_path: Path) -> None:
    rows = rows_with_marker(5)
    trainer = make_trainer(train_dataset=rows, max_tokens_per_microbatch=200, **SETTINGS)
    path = tmp_path / "run" / "nonfinite-step-2.json"
    with (
        spoil_marked_rows(trainer.model, float("nan")),
        pytest.raises(NonFiniteError, match=f"The batch is in {path}."),
    ):
        trainer.train()
    found = read_offence(path.parent, 2)
    assert (found["step"], found["what"]) == (2, "loss")
    assert "parameters" not in found
    by_row = {row["row"]: row for row in found["rows"]}
    assert sorted(by_row) == [4, 5, 6, 7]
    assert [number for number, row in by_row.items() if not row["finite"]] == [5]
    assert set(by_row[5]["figures"]) == set(COLUMNS)
    assert by_row[5]["figures"]["rejected_logps"] == "nan"
    assert by_row[4]["figures"]["rejected_logps"] < 0
    tokenizer = byte_tokenizer()
    for number, row in by_row.items():
        assert row["rank"] == 0
        for side in ("prompt", "chosen", "rejected"):
            # The whole text, the prompt's first and the answers' last token included.
            assert rows[number][side].strip() in row["text"][side], (number, side)
            assert tokenizer.decode(row["token_ids"][side]) == row["text"][side]


def test_parameters_with_a_spoilt_gradient_are_named(make_trainer: Make, tmp_path: Path) -> None:
    """Clipping spreads one NaN to every gradient: the look comes before it."""
    trainer = make_trainer(train_dataset=text_rows(), max_grad_norm=1.0, **SETTINGS)
    spoilt = ["model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"]
    for name, parameter in trainer.model.named_parameters():
        if name in spoilt:
            parameter.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(NonFiniteError, match="a gradient"):
        trainer.train()
    found = read_offence(tmp_path / "run", 1)
    assert (found["parameters"], found["parameter_count"]) == (spoilt, 2)
    assert all(row["finite"] for row in found["rows"])
    assert [row["row"] for row in found["rows"]] == [0, 1, 2, 3]


def overflow(trainer: ORPOTrainer, value: float) -> None:
    """Two finite gradients whose common norm is infinite, or even the norm of each."""
    for layer in trainer.model.model.layers:
        layer.mlp.up_proj.weight.register_hook(lambda gradient: torch.full_like(gradient, value))


@pytest.mark.parametrize("value", [3.5e17, 1e25])
def test_a_finite_gradient_whose_norm_overflows_is_let_pass(
    make_trainer: Make, value: float
) -> None:
    """Clipping makes zeros of all gradients."""
    trainer = make_trainer(train_dataset=text_rows(), max_grad_norm=1.0, **SETTINGS)
    overflow(trainer, value)
    trainer.train()
    assert trainer.state.global_step == 3


@pytest.mark.parametrize("value", [3.5e17, 1e25])
def test_a_norm_that_overflows_without_clipping_stops(make_trainer: Make, value: float) -> None:
    """Transformers measures it by clipping to infinity, which makes NaNs of all gradients."""
    trainer = make_trainer(train_dataset=text_rows(), max_grad_norm=0.0, **SETTINGS)
    overflow(trainer, value)
    with pytest.raises(NonFiniteError, match="a gradient is not finite at optimizer step 1"):
        trainer.train()


def test_a_batch_that_cannot_be_written_does_not_hide_the_cause(
    make_trainer: Make, tmp_path: Path
) -> None:
    trainer = make_trainer(train_dataset=rows_with_marker(5), **SETTINGS)
    path = tmp_path / "run" / "nonfinite-step-2.json"
    path.mkdir(parents=True)
    message = r"the loss is not finite .* could not be written to .*json \(Is a directory\)"
    with (
        spoil_marked_rows(trainer.model, float("nan")),
        pytest.raises(NonFiniteError, match=message),
    ):
        trainer.train()


# Skipping


class Moments(TrainerCallback):
    """The optimizer's state and the learning rate after every step."""

    def __init__(self) -> None:
        self.states: list[Any] = []
        self.rates: list[float] = []

    def on_step_end(self, *args: Any, optimizer: Any, lr_scheduler: Any, **kwargs: Any) -> None:
        self.states.append(copy.deepcopy(optimizer.state_dict()["state"]))
        self.rates.append(lr_scheduler.get_last_lr()[0])


def spoil_gradients(trainer: ORPOTrainer, *steps: int) -> None:
    """Make a gradient NaN at some optimizer steps, counted from 1."""
    weight = trainer.model.model.layers[1].mlp.up_proj.weight

    def spoil(gradient: Tensor) -> Tensor:
        return gradient * (float("nan") if trainer.state.global_step + 1 in steps else 1.0)

    weight.register_hook(spoil)


SKIP: dict[str, Any] = {"on_nonfinite": "skip", "weight_decay": 0.1, "max_grad_norm": 1.0}


def test_a_skipped_step_changes_nothing_but_the_schedule(make_trainer: Make) -> None:
    snapshots, moments = Snapshots(), Moments()
    trainer = make_trainer(
        train_dataset=text_rows(), callbacks=[snapshots, moments], **SETTINGS, **SKIP
    )
    spoil_gradients(trainer, 2)
    trainer.train()
    first, second, third = snapshots.weights
    assert same(first, second)
    assert not same(second, third)
    assert all(bool(weight.isfinite().all()) for weight in third.values())
    for before, after in zip(moments.states[0].values(), moments.states[1].values(), strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(set(moments.rates)) == 3  # the schedule went on
    assert trainer.state.global_step == 3


@pytest.mark.parametrize("in_loss", [True, False])
def test_a_skipped_step_is_left_out_of_the_log(make_trainer: Make, in_loss: bool) -> None:
    """The mean over three steps, one of them skipped, is that of the two others."""
    logs = {}
    for logging_steps in (1, 3):
        rows = rows_with_marker(5) if in_loss else text_rows()
        trainer = make_trainer(train_dataset=rows, logging_steps=logging_steps, **SETTINGS, **SKIP)
        if not in_loss:
            spoil_gradients(trainer, 2)
        with spoil_marked_rows(trainer.model, float("nan")):
            result = trainer.train()
        logs[logging_steps] = [line for line in trainer.state.log_history if "loss" in line]
        mean = sum(line["loss"] for line in logs[1]) / 2
        assert result.training_loss == pytest.approx(mean, rel=1e-6)
    each, (together,) = logs[1], logs[3]
    assert [line["step"] for line in each] == [1, 3]
    for name in ("loss", "rewards/margins", "logps/chosen"):
        mean = sum(line[name] for line in each) / 2
        assert together[name] == pytest.approx(mean, rel=1e-5), name
    assert [line.get("skipped_steps") for line in [*each, together]] == [None, 1, 1]


def test_the_gradient_norm_of_a_skipped_step_is_not_logged(make_trainer: Make) -> None:
    trainer = make_trainer(train_dataset=text_rows(), logging_steps=2, **SETTINGS, **SKIP)
    spoil_gradients(trainer, 2)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert ["grad_norm" in line for line in lines] == [False, True]


def test_too_many_skipped_steps_stop_the_run(make_trainer: Make, tmp_path: Path) -> None:
    snapshots = Snapshots()
    trainer = make_trainer(
        train_dataset=text_rows(),
        callbacks=[snapshots],
        max_nonfinite_steps=2,
        **{**SETTINGS, "max_steps": 8},
        **SKIP,
    )
    spoil_gradients(trainer, 2, 4, 5, 6)
    message = (
        r"a gradient is not finite at optimizer step 5 \(rows 0, 1, 2, 3\); the step was not "
        r"taken. 2 steps of this run were skipped before, as many as max_nonfinite_steps allows."
    )
    with pytest.raises(NonFiniteError, match=message):
        trainer.train()
    assert len(snapshots.weights) == 4
    assert same(trainer.model.state_dict(), snapshots.weights[-1])
    written = {path.name for path in (tmp_path / "run").glob("nonfinite-*")}
    assert written == {f"nonfinite-step-{step}.json" for step in (2, 4, 5)}


def test_the_count_of_skipped_steps_survives_a_resume(make_trainer: Make, tmp_path: Path) -> None:
    settings = {**SETTINGS, **SKIP, "max_nonfinite_steps": 1, "save_strategy": "steps"}
    settings |= {"save_steps": 3, "max_steps": 6}
    trainer = make_trainer(train_dataset=text_rows(), **settings)
    spoil_gradients(trainer, 2)
    trainer.train()
    checkpoint = str(tmp_path / "run" / "checkpoint-3")
    resumed = make_trainer(train_dataset=text_rows(), **settings)
    resumed.train(resume_from_checkpoint=checkpoint)
    logged = [line.get("skipped_steps") for line in resumed.state.log_history if "loss" in line]
    assert logged == [None, 1, 1, 1, 1]
    again = make_trainer(train_dataset=text_rows(), **settings)
    spoil_gradients(again, 5)
    with pytest.raises(NonFiniteError, match=r"step 5 .* 1 steps of this run were skipped"):
        again.train(resume_from_checkpoint=checkpoint)
    again.train()  # a fresh run counts from nothing, and fails at its second
    assert again.state.log_history[-2]["skipped_steps"] == 1


def test_a_skipped_step_is_told(make_trainer: Make, tmp_path: Path, caplog: Any) -> None:
    trainer = make_trainer(train_dataset=rows_with_marker(5), **SETTINGS, **SKIP)
    with spoil_marked_rows(trainer.model, float("nan")):
        trainer.train()
    (line,) = [text for text in caplog.messages if "skipped" in text]
    assert line == (
        "the loss is not finite at optimizer step 2 (rows 5); the step was skipped, 1 of at most "
        f"10. The batch is in {tmp_path / 'run' / 'nonfinite-step-2.json'}."
    )


def test_deepspeed_cannot_skip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match="on_nonfinite: skip is not possible with DeepSpeed"):
        ORPOConfig(output_dir=str(tmp_path), use_cpu=True, on_nonfinite="skip")


def test_nothing_of_a_step_is_kept_after_it(make_trainer: Make) -> None:
    kept: list[int] = []

    class Count(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            kept.append(len(trainer._guard._watched))

    trainer = make_trainer(train_dataset=text_rows(), callbacks=[Count()], **SETTINGS)
    trainer.train()
    assert kept == [0, 0, 0]


def test_an_engine_that_steps_by_itself_is_stopped_before_the_backward_pass(
    tmp_path: Path,
) -> None:
    """What DeepSpeed needs; the engine itself is not at hand."""
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, dataloader_pin_memory=False)
    state, control = TrainerState(), TrainerControl()
    guard = NonFiniteGuard(engine_steps=True)
    guard.on_train_begin(args, state, control)
    table = torch.zeros(2, len(COLUMNS))
    guard.watch(table, {"row": torch.tensor([3, 4])})
    table = table.clone()
    table[1, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"step 1 \(rows 6\); the step was not taken"):
        guard.watch(table, {"row": torch.tensor([5, 6])})
    guard.on_train_begin(args, state, control)
    guard.watch_norm(float("nan"))
    with pytest.raises(NonFiniteError, match="DeepSpeed had taken the step"):
        guard.on_pre_optimizer_step(args, state, control, model=nn.Linear(1, 1))


# Two ranks


def on_two_ranks(mode: str, out: Path) -> list[dict[str, Any]]:
    """What each of two real processes found, talking over gloo."""
    run = subprocess.run(
        forked.two_ranks("tests.train.guards_worker", mode, out),
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
def test_ranks_stop_together(tmp_path: Path) -> None:
    found = on_two_ranks("stop", tmp_path)
    message = "the loss is not finite at optimizer step 2 (rows 5); the step was not taken."
    for rank in found:
        assert rank["error"].startswith(message)
        assert rank["finite"]
    rows = read_offence(tmp_path / "run", 2)["rows"]
    assert sorted(row["row"] for row in rows) == [4, 5, 6, 7]
    assert {row["rank"] for row in rows} == {0, 1}


@pytest.mark.slow
def test_a_gradient_spoilt_on_one_rank_stops_both(tmp_path: Path) -> None:
    """A loss is finite everywhere, and what one rank sees decides for all."""
    found = on_two_ranks("local", tmp_path)
    for rank in found:
        assert rank["error"].startswith("a gradient is not finite at optimizer step 2")
    assert read_offence(tmp_path / "run", 2)["parameters"] == ["model.norm.weight"]


@pytest.mark.slow
def test_ranks_skip_together(tmp_path: Path) -> None:
    first, second = on_two_ranks("skip", tmp_path)
    assert first["weights"] == second["weights"]
    assert first["finite"]
    assert first["error"] == second["error"] == ""
    assert first["skipped_steps"] == second["skipped_steps"] == 1
