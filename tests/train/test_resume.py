"""A run that goes on is, to the bit, the run that was never stopped: weights and metrics.

A folder that looks as if the process had been killed is a copy of a whole run's, with some of its
checkpoints.
"""

import math
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from orpo import ORPOTrainer
from orpo.data.sources import Mixture
from orpo.errors import CheckpointError, ConfigError, NonFiniteError
from orpo.runs.checkpoints import checkpoints, newest_checkpoint
from orpo.runs.files import read_run
from orpo.runs.manifest import read_manifest
from orpo.train.checkpoints import Progress, read_progress
from orpo.train.continuity import StopOnSignal
from orpo.train.weights import frozen_weights
from tests.train.jobs import on_two_ranks
from tests.train.small import Stream, text_rows, tiny_llama
from tests.train.whole_runs import (
    differences,
    finished,
    flip_a_bit,
    lines_of,
    looks_killed,
    names,
    same_bits,
    state_of,
    trainer_for,
)

STEPS = 6  # eleven pairs, two by two, twice: an epoch has three steps, the last one of three pairs
PLAN: dict[str, Any] = {"max_steps": 6, "save_steps": 2, "logging_steps": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by `PLAN` that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    finished(folder, **PLAN)
    return folder


class At(TrainerCallback):
    """Does something as a step begins; by default it ends the run as a kill does."""

    def __init__(self, step: int, action: Callable[[], Any] | None = None) -> None:
        self.step, self.action = step, action

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            if self.action is None:
                raise KeyboardInterrupt
            self.action()


def interrupted(folder: Path, step: int, resume: str | bool | None = None, **plan: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        finished(folder, resume, callbacks=[At(step)], **plan)


def lora() -> dict[str, Any]:
    settings = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.3)
    return {"peft_config": settings, "disable_dropout": False}


def dropout() -> dict[str, Any]:
    return {
        "model": tiny_llama(attention_dropout=0.2),
        "disable_dropout": False,
        "engine": "padded",
        "neftune_noise_alpha": 5.0,
    }


def shuffled() -> Any:
    rows = datasets.Dataset.from_list(text_rows(11))
    return rows.to_iterable_dataset().shuffle(seed=0, buffer_size=8)


EVALUATE = {"eval_strategy": "steps", "eval_steps": 2}
AT_EPOCHS = {"max_steps": -1, "num_train_epochs": 2, "eval_strategy": "epoch"}
BY_EVALUATION = {
    **{**EVALUATE, "lr_scheduler_type": "reduce_lr_on_plateau"},
    "lr_scheduler_kwargs": {"patience": 0},
}
CASES: dict[str, tuple[list[int], Callable[[], dict[str, Any]]]] = {
    "every step": ([*range(1, STEPS + 1)], dict),
    "no accumulation": ([5], lambda: {"gradient_accumulation_steps": 1}),
    "padded micro-batches": ([2], lambda: {"engine": "padded", "max_tokens_per_microbatch": 300}),
    "bf16": ([4], lambda: {"bf16": True, "max_tokens_per_microbatch": 120}),
    "LoRA with dropout": ([2], lora),
    "evaluation": ([3], lambda: {**EVALUATE, "eval_on_start": True}),
    "evaluation with dropout and noise": ([3, 4], lambda: {**EVALUATE, **dropout()}),
    "a mix": ([2], lambda: {"train_dataset": Mixture([text_rows(9), text_rows(7)[::-1]], [2, 1])}),
    "a stream": ([2, 3], lambda: {"train_dataset": Stream(text_rows(11))}),
    "a shuffled stream": ([2, 5], lambda: {"train_dataset": shuffled()}),
    "a worker process": ([4], lambda: {"dataloader_num_workers": 1}),
    "learning rate by evaluation": ([3], lambda: BY_EVALUATION),
    "whole epochs": ([3, 4], lambda: {**AT_EPOCHS, "logging_strategy": "epoch"}),
    "evaluation at epochs": ([3, 6], lambda: AT_EPOCHS),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_goes_on_to_the_bit(tmp_path: Path, case: str) -> None:
    places, settings = CASES[case]
    given = {"max_steps": STEPS, "save_steps": 1}
    finished(tmp_path / "whole", **{**given, **settings()})
    wrong = {}
    for place in places:
        folder = looks_killed(tmp_path / "whole", tmp_path / f"from-{place}", place)
        finished(folder, resume=True, **{**given, **settings()})
        if found := differences(folder, tmp_path / "whole"):
            wrong[place] = found
    assert not wrong


def test_the_cases_notice_what_goes_wrong(tmp_path: Path, whole: Path) -> None:
    """One row in another place is enough."""
    rows = text_rows(11)
    finished(tmp_path, **PLAN, train_dataset=[rows[1], rows[0], *rows[2:]])
    assert len(differences(tmp_path, whole)) > 5


def test_a_run_that_goes_on_twice_and_one_that_has_nothing_left_to_do(tmp_path: Path) -> None:
    plan = {"max_steps": STEPS, "save_steps": 2, "logging_steps": 3, **EVALUATE}
    trainer, folder = trainer_for(tmp_path / "whole", **plan), tmp_path / "run"
    output = trainer.train()
    trainer.save_model()
    interrupted(folder, 4, **plan)
    interrupted(folder, 6, resume=True, **plan)
    last = trainer_for(folder, **plan)
    assert last.train(resume_from_checkpoint=True).training_loss == output.training_loss
    last.save_model()
    assert not differences(folder, tmp_path / "whole")
    assert state_of(last) == state_of(trainer)
    assert len({read_manifest(path).run for path in checkpoints(folder)}) == 1
    lines = lines_of(folder)
    again = finished(folder, resume=True, **plan)
    assert again.state.global_step == STEPS
    assert same_bits(again.model.parameters(), last.model.parameters())
    assert lines_of(folder) == lines


def test_to_evaluate_changes_nothing(tmp_path: Path) -> None:
    """Though it draws from the random numbers that dropout draws from."""
    plain, evaluated = (
        finished(tmp_path / str(len(settings)), max_steps=4, **settings, **dropout())
        for settings in ({}, EVALUATE)
    )
    assert same_bits(plain.model.parameters(), evaluated.model.parameters())


class CutOff(TrainerCallback):
    """SIGTERM in the middle of the evaluation after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.step = -1
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_an_evaluation_that_was_cut_off_is_made_up_for(tmp_path: Path, strategy: str) -> None:
    plan = {"max_steps": 6, "save_steps": 4, "eval_strategy": strategy, "eval_steps": 3}
    finished(tmp_path / "whole", **plan)
    for step in (3, 6):  # an epoch's end, and the run's
        folder = tmp_path / f"run-{step}"
        stopped = trainer_for(folder, callbacks=[StopOnSignal(), CutOff(step)], **plan)
        stopped.train()
        assert (stopped.stopped, stopped.committed_step) == (True, step)
        lines = [line["step"] for line in lines_of(folder) if "eval_loss" in line]
        assert step not in lines
        assert not finished(folder, resume=True, **plan).stopped
        assert not differences(folder, tmp_path / "whole")


def test_the_best_checkpoint_is_kept_and_loaded(tmp_path: Path) -> None:
    """The best one is an early one, because the loss is said to be the better the larger."""
    plan = {"save_steps": 2, "save_total_limit": 2, "max_steps": STEPS, **EVALUATE}
    plan |= {"load_best_model_at_end": True, "greater_is_better": True}
    best = finished(tmp_path / "whole", **plan).state.best_global_step
    assert best is not None
    assert best < STEPS
    folder = tmp_path / "run"
    interrupted(folder, 6, **plan)
    resumed = finished(folder, resume=True, **plan)
    assert not differences(folder, tmp_path / "whole")
    assert resumed.state.best_global_step == best
    assert resumed.state.best_model_checkpoint == str(folder / f"checkpoint-{best}")
    assert names(folder) == [f"checkpoint-{best}", f"checkpoint-{STEPS}"]


# Damage


NEWEST = ("model.safetensors", "optimizer.pt", "rng_state.pth", "manifest.json")
DAMAGE: dict[str, Callable[[Path], object]] = {
    "no metrics": lambda folder: (folder / "metrics.jsonl").unlink(),
    "metrics cut": lambda folder: (folder / "metrics.jsonl").write_text('{"step": 7}\n{"st'),
    "metrics overwritten": lambda folder: (folder / "metrics.jsonl").write_bytes(b"\xff\n" * 9),
    "a broken recipe": lambda folder: (folder / "recipe.yaml").write_text("a: [1"),
}


@pytest.mark.parametrize("what", [*NEWEST, *DAMAGE])
def test_damage_costs_steps_and_nothing_else(whole: Path, tmp_path: Path, what: str) -> None:
    """The checkpoint before the newest one is taken; each has all that it takes to go on."""
    folder = looks_killed(whole, tmp_path / "run", 2, 4)
    DAMAGE.get(what, lambda folder: flip_a_bit(folder / "checkpoint-4" / what))(folder)
    said: list[str] = []
    finished(folder, resume=True, said=said, **PLAN)
    passed_over = [line for line in said if line.startswith("checkpoint-4 is passed over")]
    assert len(passed_over) == (what in NEWEST)
    assert all(what in line for line in passed_over)
    assert not differences(folder, whole)


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "the one that is asked for": ({}, r"model\.safetensors is not what was committed"),
    "all": ({}, r"none of its checkpoints can be used .*checkpoint-4 .*checkpoint-2"),
    "none": ({}, "there is no checkpoint to go on from"),
    "nowhere": ({}, r"Leave --resume \(resume_from_checkpoint\) out"),
    "settings": ({"learning_rate": 4e-2}, r"learning_rate: this is not the run .*0\.01 -> "),
    "rows": ({"train_dataset": text_rows(9)}, "the prepared pairs are other ones"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_cannot_go_on_is_refused_and_nothing_is_set_aside(
    whole: Path, tmp_path: Path, what: str
) -> None:
    changed, message = OTHERS[what]
    steps = () if what == "none" else (2, 4)
    folder = looks_killed(whole, tmp_path / "run", *steps)
    if what in {"the one that is asked for", "all"}:
        for path in checkpoints(folder):
            flip_a_bit(path / "model.safetensors")
    asked: dict[str, Any] = {
        "the one that is asked for": str(folder / "checkpoint-4"),
        "nowhere": "nowhere",
        "settings": str(folder / "checkpoint-2"),
    }
    with pytest.raises((CheckpointError, ConfigError), match=message) as caught:
        finished(folder, resume=asked.get(what, True), **PLAN, **changed)
    assert "\n" not in str(caught.value)
    assert [path.name for path in checkpoints(folder)] == [f"checkpoint-{n}" for n in steps]


def test_a_run_that_goes_on_from_an_older_checkpoint_sets_later_ones_aside(
    whole: Path, tmp_path: Path
) -> None:
    """They are not taken again; and of the events, half a line that a kill has left goes."""
    folder = looks_killed(whole, tmp_path / "run", 2, 4, 6)
    (folder / "events.jsonl").write_text('{"step": 1, "kind": "whole"}\n{"step": 2, "mes')
    interrupted(folder, 6, resume=str(folder / "checkpoint-2"), **PLAN)
    assert names(folder) == ["checkpoint-2", "checkpoint-4"]
    events = read_run(folder).events
    assert [event["kind"] for event in events] == ["whole", "resumed", "abandoned"]
    told = "what comes after it is set aside: checkpoint-4 as abandoned-checkpoint-4, "
    assert events[-1]["message"].startswith(told)
    for step in (4, 6):
        assert read_manifest(folder / f"abandoned-checkpoint-{step}").step == step
    finished(folder, resume=True, save_total_limit=2, **PLAN)
    assert names(folder) == ["checkpoint-4", "checkpoint-6"]
    assert not differences(folder, whole)


def test_a_run_that_begins_in_the_folder_of_another_keeps_its_checkpoints_apart(
    whole: Path, tmp_path: Path
) -> None:
    folder = looks_killed(whole, tmp_path / "run", 2, 4)
    finished(folder, max_steps=2, save_steps=2, seed=1)
    assert names(folder) == ["checkpoint-2"]
    aside, before = folder / "abandoned-checkpoint-4", whole / "checkpoint-4"
    name = "model.safetensors"
    assert (aside / name).read_bytes() == (before / name).read_bytes()
    (told,) = [event for event in read_run(folder).events if event["kind"] == "abandoned"]
    assert told["message"].startswith("another run's checkpoints are set aside: checkpoint-2 as ")


def test_a_run_folder_may_be_named_and_another_written_to(whole: Path, tmp_path: Path) -> None:
    there = looks_killed(whole, tmp_path / "there", 2, 4)
    trainer_for(there, **PLAN).save_model()  # and a manifest of a model with it
    flip_a_bit(there / "checkpoint-4" / "optimizer.pt")
    said: list[str] = []
    finished(tmp_path / "here", resume=str(there), said=said, **PLAN)
    assert said[0] == "checkpoint-4 is passed over: optimizer.pt is not what was committed"
    assert not differences(tmp_path / "here", whole)
    assert (there / "checkpoint-4").is_dir()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"metric_lines": 3, "of_the_future": [1]}', ""),
        (None, "has no progress.json"),
        ("{", "cannot be read"),
        ("3", "cannot be read"),
        ('{"metric_lines": -1}', "contradicts itself"),
        ('{"metric_dtype": "int7"}', "'metric_dtype' is no dtype"),
    ],
)
def test_the_progress_of_a_checkpoint(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "progress.json").write_text(text)
    if not said:
        assert read_progress(tmp_path) == Progress(metric_lines=3)
        return
    with pytest.raises(CheckpointError, match=said):
        read_progress(tmp_path)


class Plant(TrainerCallback):
    """Makes one weight NaN, before a step or right after one."""

    def __init__(self, step: int, moment: str) -> None:
        self.step, self.moment = step, moment

    def plant(self, model: nn.Module, step: int, moment: str) -> None:
        if (step, moment) == (self.step, self.moment):
            with torch.no_grad():
                model.get_parameter("model.layers.1.mlp.up_proj.weight")[3, 4] = float("nan")

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.plant(kwargs["model"], state.global_step + 1, "before")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.plant(kwargs["model"], state.global_step, "after")


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        ("before", r"the loss is not finite at optimizer step 4 \(rows .*the step was not taken"),
        ("after", r"not finite after optimizer step 4 \(model\.layers\.1\.mlp\.up_proj\.weight\)"),
    ],
)
def test_a_weight_that_is_not_finite_never_reaches_the_disk(
    whole: Path, tmp_path: Path, moment: str, said: str
) -> None:
    with pytest.raises(NonFiniteError, match=said) as caught:
        finished(tmp_path, **PLAN, callbacks=[Plant(4, moment)])
    last = read_run(tmp_path).events[-1]
    assert (last["kind"], last["message"]) == ("failed", str(caught.value))
    assert names(tmp_path) == ["checkpoint-2"]
    weights = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert all(bool(weight.isfinite().all()) for weight in weights.values())
    finished(tmp_path, resume=True, **PLAN)
    assert not differences(tmp_path, whole)


# With other settings


@pytest.fixture(scope="module")
def constant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("constant") / "run"
    finished(folder, **CONSTANT)
    return folder


CONSTANT = {**PLAN, "lr_scheduler_type": "constant", "num_train_epochs": 9, "max_steps": 6}
CONSTANT |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
CONSTANT |= {"train_dataset": text_rows(8)}


@pytest.mark.parametrize(
    "changed",
    [
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
        {"engine": "padded", "max_tokens_per_microbatch": 128},
        {"eval_strategy": "steps", "eval_steps": 1, "dataloader_num_workers": 0},
        {"max_steps": 4},
    ],
    ids=str,
)
def test_what_is_said_to_be_the_same_run_is(
    constant: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    folder = looks_killed(constant, tmp_path / "run", 2)
    finished(folder, resume=True, **{**CONSTANT, "max_steps": 4, **changed})
    name = "checkpoint-4/model.safetensors"
    ours, theirs = load_file(folder / name), load_file(constant / name)
    for weight, value in theirs.items():
        torch.testing.assert_close(ours[weight], value, atol=2e-5, rtol=1e-4)


def cosine(done: float, rate: float) -> float:
    return rate * (1 + math.cos(math.pi * done)) / 2


def test_another_learning_rate_is_the_one_that_is_used(whole: Path, tmp_path: Path) -> None:
    folder = looks_killed(whole, tmp_path / "run", 2)
    changed = {"learning_rate": 4e-2, "weight_decay": 0.5, "max_steps": 4, "resume_changed": True}
    second = finished(folder, resume=True, **{**PLAN, **changed})
    rates = [line["learning_rate"] for line in lines_of(folder) if "learning_rate" in line]
    assert rates == pytest.approx(
        [1e-2, cosine(1 / 6, 1e-2), cosine(2 / 4, 4e-2), cosine(3 / 4, 4e-2)]
    )
    assert 0.5 in {group["weight_decay"] for group in second.optimizer.param_groups}


def test_a_run_that_keeps_only_models_is_stopped_with_its_optimizer(
    whole: Path, tmp_path: Path
) -> None:
    plan = {**PLAN, "save_steps": 3, "save_only_model": True}
    send = At(3, lambda: signal.raise_signal(signal.SIGTERM))
    trainer_for(tmp_path, **plan, callbacks=[StopOnSignal(), send]).train()
    assert newest_checkpoint(tmp_path).path == tmp_path / "checkpoint-3"
    finished(tmp_path, resume=True, **plan)
    assert not differences(tmp_path, whole)


def test_an_adapter_goes_on_with_the_weights_that_it_was_made_for(tmp_path: Path) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    model = tiny_llama()
    model.save_pretrained(base)
    adapter = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    plan = {"max_steps": 2, "save_steps": 1, "model": str(base), "peft_config": adapter}
    finished(run, **plan)
    assert frozen_weights(tiny_llama()) is None  # all of it is trained
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight += 0.01
    shutil.rmtree(base)
    model.save_pretrained(base)
    with pytest.raises(ConfigError, match="the frozen weights are other ones"):
        finished(run, resume=True, **plan)


# Two ranks


KINDS: dict[str, dict[str, Any]] = {
    "map": {"eval_strategy": "steps", "eval_steps": 2},
    "stream": {"train_dataset": Stream(text_rows(11))},
}


def stopped_and_gone_on(out: Path) -> dict[str, Any]:
    """SIGTERM reaches the second rank only, in the fifth step."""

    def told() -> None:
        if torch.distributed.get_rank() == 1:
            signal.raise_signal(signal.SIGTERM)

    found = {}
    for kind, settings in KINDS.items():
        plan = {"max_steps": 6, "save_steps": 3, "logging_steps": 3, **settings}
        plan["per_device_train_batch_size"] = 1
        finished(out / f"{kind}-whole", **plan)
        trainer: ORPOTrainer = trainer_for(
            out / kind, callbacks=[StopOnSignal(), At(5, told)], **plan
        )
        trainer.train()
        assert (trainer.stopped, trainer.committed_step) == (True, 5)
        found[kind] = names(out / kind)
        assert not finished(out / kind, resume=True, **plan).stopped
    return found


@pytest.mark.slow
def test_two_ranks_go_on_to_the_bit(tmp_path: Path) -> None:
    """Both commit the same checkpoint, and end."""
    for found in on_two_ranks(stopped_and_gone_on, tmp_path):
        assert found == {kind: ["checkpoint-3", "checkpoint-5"] for kind in KINDS}
    for kind in KINDS:
        assert names(tmp_path / kind) == ["checkpoint-3", "checkpoint-5", "checkpoint-6"]
        assert not differences(tmp_path / kind, tmp_path / f"{kind}-whole")
