"""A loss or a gradient that is not finite stops the run before it spoils the weights."""

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from orpo import ConfigError, NonFiniteError, ORPOConfig, ORPOTrainer
from orpo.runs.files import read_jsonl
from orpo.train.metrics import COLUMNS
from orpo.train.nonfinite import NonFiniteGuard
from tests.train.jobs import on_two_ranks
from tests.train.one_step import quiet_trainer
from tests.train.small import byte_tokenizer, text_rows, tiny_llama
from tests.train.whole_runs import losses_of

Make = Callable[..., ORPOTrainer]

MARKER = "~"
NAN, INF = float("nan"), float("inf")
SETTINGS: dict[str, Any] = {
    "max_steps": 3,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "train_sampling_strategy": "sequential",
}
SKIP: dict[str, Any] = {"on_nonfinite": "skip", "weight_decay": 0.1, "max_grad_norm": 1.0}


def rows_with_marker(*marked: int) -> list[dict[str, str]]:
    rows = text_rows()
    for index in marked:
        rows[index]["rejected"] += MARKER
    return rows


@contextlib.contextmanager
def spoil_marked_rows(model: nn.Module, value: float = NAN) -> Iterator[None]:
    """While open, the marker's embedding is `value`, and so is what attends to it."""
    (marker,) = byte_tokenizer()(MARKER)["input_ids"]

    def spoil(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return torch.where((args[0] == marker)[..., None], value, output)

    handle = model.get_input_embeddings().register_forward_hook(spoil)
    yield
    handle.remove()


SPOILT = ["model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"]


def spoil_gradients(trainer: ORPOTrainer, *steps: int, value: float = NAN) -> None:
    """Spoil one entry of the gradients of `SPOILT` at some optimizer steps, counted from 1."""

    def spoil(gradient: Tensor) -> Tensor:
        if trainer.state.global_step + 1 in steps:
            gradient = gradient.clone()
            gradient[3, 4] = value
        return gradient

    for name in SPOILT:
        trainer.model.get_parameter(name).register_hook(spoil)


class Snapshots(TrainerCallback):
    """Weights, the optimizer's state and the learning rate after every optimizer step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.states: list[Any] = []
        self.rates: list[float] = []

    def on_step_end(self, *args: Any, model: nn.Module, **kwargs: Any) -> None:
        self.weights.append(copy.deepcopy(model.state_dict()))
        self.states.append(copy.deepcopy(kwargs["optimizer"].state_dict()["state"]))
        self.rates.append(kwargs["lr_scheduler"].get_last_lr()[0])


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def read_offence(folder: Path, step: int) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not strict JSON")

    text = (folder / f"nonfinite-step-{step}.json").read_text()
    found: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return found


@pytest.mark.parametrize(
    "settings", [{}, {"max_grad_norm": 0.01, "max_tokens_per_microbatch": 200}]
)
def test_clipping_with_the_guards_own_norm_is_the_usual_clipping(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    def weights() -> tuple[dict[str, Tensor], list[Any]]:
        trainer = make_trainer(train_dataset=text_rows(), **(SETTINGS | settings))
        trainer.train()
        norms = [line["grad_norm"] for line in losses_of(trainer)]
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


@pytest.mark.parametrize(("value", "tokens"), [(NAN, None), (INF, 200)])
def test_a_spoilt_loss_takes_no_step_and_its_batch_is_written(
    make_trainer: Make, tmp_path: Path, value: float, tokens: int | None
) -> None:
    snapshots, rows = Snapshots(), rows_with_marker(5)
    settings = {**SETTINGS, "max_tokens_per_microbatch": tokens, "callbacks": [snapshots]}
    trainer = make_trainer(train_dataset=rows, **settings)
    path = tmp_path / "run" / "nonfinite-step-2.json"
    message = (
        r"the loss is not finite at optimizer step 2 \(rows 5\); the step was not taken"
        rf".* The batch is in {path}\."
    )
    with spoil_marked_rows(trainer.model, value), pytest.raises(NonFiniteError, match=message):
        trainer.train()
    assert len(snapshots.weights) == 1
    assert same(trainer.model.state_dict(), snapshots.weights[0])
    assert not same(trainer.model.state_dict(), tiny_llama().state_dict())  # step 1 was taken
    found = read_offence(path.parent, 2)
    assert (found["step"], found["what"]) == (2, "loss")
    assert "parameters" not in found
    by_row = {row["row"]: row for row in found["rows"]}
    assert sorted(by_row) == [4, 5, 6, 7]
    assert [number for number, row in by_row.items() if not row["finite"]] == [5]
    assert by_row[5]["figures"].keys() == {*COLUMNS}
    assert by_row[5]["figures"]["rejected_logps"] == "nan"
    assert by_row[4]["figures"]["rejected_logps"] < 0
    for number, row in by_row.items():
        assert row["rank"] == 0
        for side in ("prompt", "chosen", "rejected"):
            # The whole text, the prompt's first and the answers' last token included.
            assert rows[number][side].strip() in row["text"][side], (number, side)
            assert byte_tokenizer().decode(row["token_ids"][side]) == row["text"][side]


def test_rows_are_numbered_as_in_the_data_set(make_trainer: Make) -> None:
    """Every one of the step; a dropped row keeps its number."""
    rows = rows_with_marker(0, 3, 6)
    rows[2]["chosen"] = rows[2]["rejected"]  # dropped: both answers are the same
    trainer = make_trainer(train_dataset=rows, **SETTINGS)
    assert trainer.ledgers["train_dataset"].dropped == {"identical_answers": 1}
    with (
        spoil_marked_rows(trainer.model),
        pytest.raises(NonFiniteError, match=r"step 1 \(rows 0, 3\)"),
    ):
        trainer.train()
    assert same(trainer.model.state_dict(), tiny_llama().state_dict())


@pytest.mark.parametrize(("value", "clip"), [(NAN, 1.0), (-INF, 0.0)])
def test_a_spoilt_gradient_names_the_step_its_rows_and_parameters(
    make_trainer: Make, tmp_path: Path, value: float, clip: float
) -> None:
    """Clipping spreads one NaN to every gradient: the look comes before it."""
    snapshots = Snapshots()
    trainer = make_trainer(
        train_dataset=text_rows(), callbacks=[snapshots], max_grad_norm=clip, **SETTINGS
    )
    spoil_gradients(trainer, 2, value=value)
    message = r"a gradient is not finite at optimizer step 2 \(rows 4, 5, 6, 7\)"
    with pytest.raises(NonFiniteError, match=message):
        trainer.train()
    assert same(trainer.model.state_dict(), snapshots.weights[-1])
    assert len(snapshots.weights) == 1
    found = read_offence(tmp_path / "run", 2)
    assert (found["parameters"], found["parameter_count"]) == (SPOILT, 2)
    assert [(row["row"], row["finite"]) for row in found["rows"]] == [
        (n, True) for n in range(4, 8)
    ]


@pytest.mark.parametrize("value", [3.5e17, 1e25])
def test_gradients_whose_norm_overflows(make_trainer: Make, value: float) -> None:
    """Their common one, or even that of each: clipping makes zeros of all gradients.

    Without clipping, transformers measures it by clipping to infinity, which makes NaNs.
    """
    for clip in (1.0, 0.0):
        trainer = make_trainer(train_dataset=text_rows(), max_grad_norm=clip, **SETTINGS)
        for layer in trainer.model.model.layers:
            layer.mlp.up_proj.weight.register_hook(lambda grad: torch.full_like(grad, value))
        stopped = pytest.raises(NonFiniteError, match=r"a gradient .* optimizer step 1")
        with contextlib.nullcontext() if clip else stopped:
            trainer.train()
        assert trainer.state.global_step == (3 if clip else 0)


def test_a_stopped_run_leaves_nothing_behind_for_the_next(make_trainer: Make) -> None:
    """Sums and rows of the step that was not taken must not reach the next run's log."""
    rows = rows_with_marker(1)
    trainer = make_trainer(train_dataset=rows, **SETTINGS)
    with spoil_marked_rows(trainer.model), pytest.raises(NonFiniteError):
        trainer.train()
    trainer.train()
    fresh = make_trainer(train_dataset=rows, **SETTINGS)
    fresh.train()
    again, once = losses_of(trainer)[0], losses_of(fresh)[0]
    for name in ("loss", "nll_loss", "log_odds_ratio", "logps/rejected"):
        assert again[name] == once[name], name


def test_without_the_guard_the_weights_would_be_spoilt_as_evaluations_show(
    make_trainer: Make,
) -> None:
    rows = rows_with_marker(5)
    trainer = make_trainer(train_dataset=rows, eval_dataset=rows, **SETTINGS)
    trainer.remove_callback(NonFiniteGuard)
    with spoil_marked_rows(trainer.model):
        assert torch.tensor(trainer.evaluate()["eval_loss"]).isnan()
        trainer.train()
    assert any(bool(weight.isnan().any()) for weight in trainer.model.parameters())


def test_a_batch_that_cannot_be_written_does_not_hide_the_cause(
    make_trainer: Make, tmp_path: Path
) -> None:
    trainer = make_trainer(train_dataset=rows_with_marker(1), **SETTINGS)
    (tmp_path / "run" / "nonfinite-step-1.json").mkdir(parents=True)
    message = r"the loss is not finite .* could not be written to .*json \(Is a directory\)"
    with spoil_marked_rows(trainer.model), pytest.raises(NonFiniteError, match=message):
        trainer.train()


def test_sharded_gradients_are_looked_at_where_they_lie(tmp_path: Path) -> None:
    """One process that shards as many do."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, dataloader_pin_memory=False)
    try:
        for value in (1.0, NAN, INF):
            model = nn.Linear(3, 2)
            for name, weight in [*model.named_parameters()]:
                sharded = nn.Parameter(distribute_tensor(weight.detach(), mesh, [Shard(0)]))
                full = torch.full_like(weight, value)
                sharded.grad = distribute_tensor(full, mesh, [Shard(0)])
                setattr(model, name, sharded)
            guard, state = NonFiniteGuard(), TrainerState()
            stopped = pytest.raises(NonFiniteError, match=r"a gradient .* step 1 \(rows unknown\)")
            with contextlib.nullcontext() if value == 1.0 else stopped:
                guard.on_pre_optimizer_step(args, state, TrainerControl(), model=model)
        assert read_offence(tmp_path, 1)["parameters"] == ["weight", "bias"]
    finally:
        dist.destroy_process_group()


def test_an_engine_that_steps_by_itself_is_stopped_before_the_backward_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What DeepSpeed needs; the engine itself is not at hand. It cannot skip."""
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, dataloader_pin_memory=False)
    state, control = TrainerState(), TrainerControl()
    guard = NonFiniteGuard(engine_steps=True)
    guard.on_train_begin(args, state, control)
    table = torch.zeros(2, len(COLUMNS))
    guard.watch(table, {"row": torch.tensor([3, 4])})
    table = table.clone()
    table[1, 0] = NAN
    with pytest.raises(NonFiniteError, match=r"step 1 \(rows 6\); the step was not taken"):
        guard.watch(table, {"row": torch.tensor([5, 6])})
    guard.on_train_begin(args, state, control)
    guard.watch_norm(NAN)
    with pytest.raises(NonFiniteError, match="DeepSpeed had taken the step"):
        guard.on_pre_optimizer_step(args, state, control, model=nn.Linear(1, 1))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match="on_nonfinite: skip is not possible with DeepSpeed"):
        ORPOConfig(output_dir=str(tmp_path), use_cpu=True, on_nonfinite="skip")


# Skipping


@pytest.mark.parametrize("in_loss", [True, False])
def test_a_skipped_step_changes_nothing_but_the_schedule(
    make_trainer: Make, in_loss: bool, tmp_path: Path, caplog: Any
) -> None:
    """It is left out of the log: a mean over three steps is that of the two others."""
    logs = {}
    for logging_steps in (1, 2, 3):
        snapshots = Snapshots()
        trainer = make_trainer(
            train_dataset=rows_with_marker(5) if in_loss else text_rows(),
            callbacks=[snapshots],
            **{**SETTINGS, **SKIP, "logging_steps": logging_steps},
        )
        if not in_loss:
            spoil_gradients(trainer, 2)
        with spoil_marked_rows(trainer.model):
            result = trainer.train()
        logs[logging_steps] = losses_of(trainer)
        mean = sum(line["loss"] for line in logs[1]) / 2
        assert result.training_loss == pytest.approx(mean, rel=1e-6)
    first, second, third = snapshots.weights
    assert same(first, second)
    assert not same(second, third)
    assert all(bool(weight.isfinite().all()) for weight in third.values())
    before, after = (state.values() for state in snapshots.states[:2])
    assert all(map(same, after, before))
    assert len(set(snapshots.rates)) == 3  # the schedule went on
    each, (together,) = logs[1], logs[3]
    assert [line["step"] for line in each] == [1, 3]
    for name in ("loss", "rewards/margins", "logps/chosen"):
        mean = sum(line[name] for line in each) / 2
        assert together[name] == pytest.approx(mean, rel=1e-5), name
    assert [line.get("skipped_steps") for line in [*each, together]] == [None, 1, 1]
    assert ["grad_norm" in line for line in logs[2]] == [False, True]
    said = [text for text in caplog.messages if "skipped" in text]
    if in_loss:
        assert said == 3 * [
            "the loss is not finite at optimizer step 2 (rows 5); the step was skipped, 1 of at "
            f"most 10. The batch is in {tmp_path / 'run' / 'nonfinite-step-2.json'}."
        ]
    assert not trainer._guard._watched  # nothing of a step is kept after it


def test_too_many_skipped_steps_stop_the_run_also_if_it_goes_on(
    make_trainer: Make, tmp_path: Path
) -> None:
    plan = {**SETTINGS, **SKIP, "max_steps": 8, "save_strategy": "steps", "save_steps": 3}
    plan |= {"train_dataset": text_rows(), "max_nonfinite_steps": 2}
    message = (
        r"a gradient is not finite at optimizer step 5 \(rows 0, 1, 2, 3\); the step was not "
        r"taken. 2 steps of this run were skipped before, as many as max_nonfinite_steps allows."
    )
    for resume in (None, str(tmp_path / "run" / "checkpoint-3")):
        trainer = make_trainer(**plan)
        spoil_gradients(trainer, 2, 4, 5, 6)
        with pytest.raises(NonFiniteError, match=message):
            trainer.train(resume_from_checkpoint=resume)
        assert trainer.state.global_step == 4
        written = {path.name for path in (tmp_path / "run").glob("nonfinite-*")}
        assert written == {f"nonfinite-step-{step}.json" for step in (2, 4, 5)}
    resumed = make_trainer(**plan)
    resumed.train(resume_from_checkpoint=resume)
    assert [line.get("skipped_steps") for line in losses_of(resumed)] == [None, *[1] * 6]
    told = [one["kind"] for one in read_jsonl(tmp_path / "run" / "events.jsonl")]
    assert "nonfinite_streak" not in told
    resumed.train()  # a fresh run counts from nothing
    assert not any("skipped_steps" in line for line in losses_of(resumed))


# Two ranks


class LocalTrainer(ORPOTrainer):
    """Its second rank spoils a gradient of the second step, just before the guard looks."""

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        look = self._guard.look

        def spoil_and_look(model: Any) -> None:
            if dist.get_rank() == 1 and self.state.global_step == 1:
                self.model.get_parameter("model.norm.weight").grad[0] = NAN
            look(model)

        self._guard.look = spoil_and_look  # type: ignore[method-assign]
        try:
            return super().training_step(*args, **kwargs)
        finally:
            self._guard.look = look  # type: ignore[method-assign]


def spoilt_on_one_rank(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for mode in ("stop", "local", "skip"):
        trainer = quiet_trainer(
            LocalTrainer if mode == "local" else ORPOTrainer,
            str(out / mode),
            train_dataset=text_rows() if mode == "local" else rows_with_marker(5),
            per_device_train_batch_size=2,
            max_steps=3,
            logging_steps=1,
            on_nonfinite="skip" if mode == "skip" else "stop",
        )
        error = ""
        with spoil_marked_rows(trainer.model):
            try:
                trainer.train()
            except NonFiniteError as raised:
                error = str(raised)
        weights = [weight.detach().clone() for weight in trainer.model.parameters()]
        found[mode] = error, weights, losses_of(trainer)[-1].get("skipped_steps")
    return found


@pytest.mark.slow
def test_ranks_decide_together(tmp_path: Path) -> None:
    """What one rank sees decides for all, though a loss may be finite everywhere."""
    found = on_two_ranks(spoilt_on_one_rank, tmp_path)
    for rank in found:
        message = "the loss is not finite at optimizer step 2 (rows 5); the step was not taken."
        assert rank["stop"][0].startswith(message)
        assert rank["local"][0].startswith("a gradient is not finite at optimizer step 2")
        assert (rank["skip"][0], rank["skip"][2]) == ("", 1)
        for _, weights, _ in rank.values():
            assert all(bool(weight.isfinite().all()) for weight in weights)
    assert all(map(torch.equal, found[0]["skip"][1], found[1]["skip"][1]))
    rows = read_offence(tmp_path / "stop", 2)["rows"]
    assert sorted(row["row"] for row in rows) == [4, 5, 6, 7]
    assert {row["rank"] for row in rows} == {0, 1}
    assert read_offence(tmp_path / "local", 2)["parameters"] == ["model.norm.weight"]


def test_a_streak_of_skipped_steps_is_said_once(make_trainer: Make, tmp_path: Path) -> None:
    trainer = make_trainer(train_dataset=text_rows(), **{**SETTINGS, **SKIP, "max_steps": 6})
    spoil_gradients(trainer, 1, 2, 4, 5, 6)
    said: list[str] = []
    trainer.say = said.append
    trainer.train()
    (line,) = [line for line in said if "in a row" in line]
    assert line.startswith("3 optimizer steps in a row were not finite, the last one step 6")
    kinds = [one["kind"] for one in read_jsonl(tmp_path / "run" / "events.jsonl")]
    assert kinds.count("nonfinite_streak") == 1
