"""What a run that goes on takes from its checkpoint, and what from the settings it is given."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from orpo.errors import ConfigError, NonFiniteError
from orpo.runs.checkpoints import checkpoints, newest_checkpoint
from orpo.runs.files import read_run
from orpo.train.signals import StopOnSignal
from orpo.train.weights import frozen_weights
from tests.train.small import text_rows, tiny_llama
from tests.train.whole_runs import lines_of, trainer_for


class Send(TrainerCallback):
    """Sends a signal to this process and its loader's workers, in a step."""

    def __init__(self, number: signal.Signals, step: int, *, workers_first: bool = False) -> None:
        self.number, self.step, self.workers_first = number, step, workers_first
        self.gone: list[psutil.Process] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            workers = multiprocessing.active_children()  # and not the server of tests.forked
            alive = [worker.pid for worker in workers if worker.is_alive()]
            children = [psutil.Process(pid) for pid in alive if psutil.pid_exists(pid or 0)]
            pids = [str(child.pid) for child in children]
            own = [] if self.workers_first else [str(os.getpid())]
            # From outside: torch's worker processes take a signal of their parent otherwise.
            subprocess.run(["kill", f"-{self.number.value}", *own, *pids], check=True)
            self.gone, _ = psutil.wait_procs(children, timeout=30)
            if self.workers_first:  # as batch systems do, one process after the other
                os.kill(os.getpid(), self.number)


def test_another_learning_rate_is_the_one_that_is_used(tmp_path: Path) -> None:
    plan = {"max_steps": 4, "save_steps": 2, "logging_steps": 1, "lr_scheduler_type": "linear"}
    trainer_for(tmp_path, **plan).train()
    changed = {**plan, "learning_rate": 4e-2, "weight_decay": 0.5, "resume_changed": True}
    second = trainer_for(tmp_path, **changed)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    rates = [line["learning_rate"] for line in lines_of(tmp_path) if "learning_rate" in line]
    assert rates == pytest.approx([1e-2, 7.5e-3, 2e-2, 1e-2])
    decays = {group["weight_decay"] for group in second.optimizer.param_groups}
    assert 0.5 in decays


def test_without_being_told_another_learning_rate_is_refused(tmp_path: Path) -> None:
    plan = {"max_steps": 4, "save_steps": 2}
    trainer_for(tmp_path, **plan).train()
    with pytest.raises(ConfigError, match="learning_rate: this is not the run that was stopped"):
        trainer_for(tmp_path, **plan, learning_rate=4e-2).train(resume_from_checkpoint=True)


def test_a_run_that_keeps_only_models_is_stopped_with_its_optimizer(tmp_path: Path) -> None:
    plan = {"max_steps": 6, "save_steps": 3, "save_only_model": True}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    reference = trainer_for(whole, **plan)
    reference.train()
    send = Send(signal.SIGTERM, 3)
    trainer_for(stopped, **plan, callbacks=[StopOnSignal(), send]).train()
    assert newest_checkpoint(stopped).path == stopped / "checkpoint-3"
    resumed = trainer_for(stopped, **plan)
    resumed.train(resume_from_checkpoint=True)
    for ours, theirs in zip(resumed.model.parameters(), reference.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("workers_first", [False, True])
def test_a_signal_that_ends_the_loader_too_is_still_a_stop(
    tmp_path: Path, workers_first: bool
) -> None:
    send = Send(signal.SIGTERM, 3, workers_first=workers_first)
    workers = {"dataloader_num_workers": 2, "train_dataset": text_rows(60)}
    trainer = trainer_for(tmp_path, max_steps=9, callbacks=[StopOnSignal(), send], **workers)
    trainer.train()
    assert len(send.gone) == 2
    assert (trainer.stopped, trainer.committed_step) == (True, 3)


def test_an_adapter_goes_on_with_the_weights_that_it_was_made_for(tmp_path: Path) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    model = tiny_llama()
    model.save_pretrained(base)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    plan = {"max_steps": 4, "save_steps": 2, "model": str(base), "peft_config": lora}
    first = trainer_for(run, **plan)
    first.train()
    assert frozen_weights(tiny_llama()) is None  # all of it is trained
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight += 0.01
    shutil.rmtree(base)
    model.save_pretrained(base)
    with pytest.raises(ConfigError, match="the frozen weights are other ones"):
        trainer_for(run, **plan).train(resume_from_checkpoint=True)


def test_a_line_of_the_events_that_a_kill_cut_off_goes(tmp_path: Path) -> None:
    plan = {"max_steps": 4, "save_steps": 2}
    trainer_for(tmp_path, **plan).train()
    (tmp_path / "events.jsonl").write_text('{"step": 1, "message": "whole"}\n{"step": 2, "mes')
    trainer_for(tmp_path, **plan).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    kinds = [event.get("kind", event["message"]) for event in read_run(tmp_path).events]
    assert kinds == ["whole", "resumed", "abandoned"]


def test_a_run_that_begins_in_the_folder_of_another_keeps_its_checkpoints_apart(
    tmp_path: Path,
) -> None:
    trainer_for(tmp_path, max_steps=4, save_steps=2).train()
    before = (tmp_path / "checkpoint-4" / "model.safetensors").read_bytes()
    trainer_for(tmp_path, max_steps=2, save_steps=2, seed=1).train()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2"]
    assert (tmp_path / "abandoned-checkpoint-4" / "model.safetensors").read_bytes() == before
    (told,) = [event for event in read_run(tmp_path).events if event["kind"] == "abandoned"]
    assert told["message"].startswith("another run's checkpoints are set aside: checkpoint-2 as ")


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
    tmp_path: Path, moment: str, said: str
) -> None:
    plan = {"max_steps": 8, "save_steps": 2}
    whole = trainer_for(tmp_path / "whole", **plan)
    whole.train()
    run = tmp_path / "run"
    trainer = trainer_for(run, **plan, callbacks=[Plant(4, moment)])
    with pytest.raises(NonFiniteError, match=said):
        trainer.train()
    assert [path.name for path in checkpoints(run)] == ["checkpoint-2"]
    weights = load_file(run / "checkpoint-2" / "model.safetensors")
    assert all(bool(weight.isfinite().all()) for weight in weights.values())
    resumed = trainer_for(run, **plan)
    resumed.train(resume_from_checkpoint=True)
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
