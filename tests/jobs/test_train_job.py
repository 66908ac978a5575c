"""What a training job does to a folder that holds something, and when it is stopped."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from orpo.errors import ConfigError, RunStopped, UserError
from orpo.jobs import TrainJob, TrainResult
from orpo.runs.checkpoints import checkpoints
from orpo.runs.manifest import read_manifest, verify
from orpo.runs.typed import plain
from tests.jobs import small_run
from tests.jobs.small_run import flip

Copied = Callable[[Path], Path]


class Train:
    """Trains the model and the data of `finished_run` in a folder; `lines` is what was said."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.lines: list[str] = []

    def __call__(self, run: Path, **told: Any) -> TrainResult:
        self.lines.clear()
        return small_run.run(self.base, run, say=self.lines.append, **told)


class Kill(TrainerCallback):
    """SIGTERM in an evaluation: the nth one, counted from nought."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        if self.left == 0:
            self.left = -1
            os.kill(os.getpid(), signal.SIGTERM)

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self.left -= 1


@pytest.fixture
def train(finished_run: Path) -> Train:
    return Train(finished_run.parent)


@pytest.fixture
def run(finished_run: Path, copied: Copied) -> Path:
    """This test's own copy of a finished run."""
    return copied(finished_run)


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# Refused


@pytest.mark.parametrize("why", ["other settings", "damaged checkpoints"])
def test_a_refused_resume_changes_nothing(train: Train, run: Path, why: str) -> None:
    if why == "damaged checkpoints":
        for checkpoint in checkpoints(run):
            flip(checkpoint / "model.safetensors")
    before = content(run)
    other: dict[str, Any] = {"learning_rate": 0.1} if why == "other settings" else {}
    with pytest.raises(UserError):
        train(run, resume="newest", **other)
    assert content(run) == before


def test_nothing_to_resume_is_said_before_the_model_is_loaded(train: Train, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name, resume in (("new", "newest"), ("new", str(tmp_path / "none")), ("there", "newest")):
        with pytest.raises(ConfigError, match="no checkpoint"):
            train(tmp_path / name, resume=resume, model=str(tmp_path / "no model"))
    assert not (tmp_path / "new").exists()
    assert not content(tmp_path / "there")


def test_resume_and_overwrite_contradict_each_other() -> None:
    for resume in ("newest", "run/checkpoint-2"):
        with pytest.raises(ConfigError, match="cannot be combined with --resume"):
            TrainJob(model="m", dataset=["d"], resume=resume, overwrite=True)
    assert TrainJob(model="m", dataset=["d"], resume="auto", overwrite=True).resume == "auto"


def test_the_model_is_never_written_over(train: Train, tmp_path: Path) -> None:
    model = Path(shutil.copytree(train.base / "base", tmp_path / "model"))
    (tmp_path / "link").symlink_to(model)
    before = content(model)
    given: list[dict[str, Any]] = [{"model": str(model)}, {"tokenizer": str(model)}]
    for told in given:
        for overwrite in (False, True):
            with pytest.raises(ConfigError, match=f"folder of --{next(iter(told))}"):
                train(tmp_path / "link", overwrite=overwrite, **told)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(model)})
    )
    with pytest.raises(ConfigError, match="base model"):
        train(model, overwrite=True, model=str(adapter))
    assert content(model) == before


def test_a_folder_with_a_model_is_kept(train: Train, tmp_path: Path) -> None:
    def hold(folder: Path, name: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")

    names = ["config.json", "adapter_config.json", "model-00001-of-2.safetensors", "checkpoint-7/x"]
    for number, name in enumerate(names):
        run = tmp_path / str(number)
        hold(run, name)
        for resume in (None, "auto"):
            if resume is None or not name.startswith("checkpoint"):
                with pytest.raises(ConfigError, match="already holds"):
                    train(run, resume=resume)
        assert list(content(run)) == [name]
    for name in names:
        hold(run, name)
    train(run, overwrite=True, max_steps=1, samples=0, held_out=0)
    assert (run / "recipe.yaml").is_file()
    assert not any((run / name).exists() for name in names[1:])


def test_what_cannot_be_does_not_take_the_place_of_a_run(
    train: Train,
    run: Path,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = str(finished_run / "checkpoint-2")
    before = content(run)
    with pytest.raises(ConfigError, match="would delete the folder of --model, checkpoint-2"):
        train(run, overwrite=True, model=str(run / "checkpoint-2"))
    with pytest.raises(ConfigError, match="lies elsewhere"):
        train(run, resume=elsewhere)
    with monkeypatch.context() as patched:
        patched.setattr("orpo.engine.memory.available_bytes", lambda device: 1 << 16)
        with pytest.raises(ConfigError, match="memory"):
            train(run, overwrite=True, learning_rate=0.5)
    assert content(run) == before
    assert train(tmp_path / "fresh", resume=elsewhere).steps == 4


# Replaced


def test_what_is_replaced_leaves_nothing_behind(train: Train, run: Path) -> None:
    for name in (
        *("nonfinite-step-3.json", "stall-rank0.txt", "model-00001-of-00002.safetensors"),
        *("model.safetensors.index.json", ".staging-checkpoint-9/x", ".replaced-checkpoint-8/x"),
        *("notes.txt", "mine/model.safetensors"),
    ):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("old")
    old = read_manifest(run).run
    train(run, overwrite=True, lora_r=2, max_steps=1, samples=0, held_out=0)
    names = {path.name for path in run.iterdir()}
    assert {"notes.txt", "mine", "adapter_model.safetensors", "checkpoint-1"} <= names
    assert (run / "mine" / "model.safetensors").read_text() == "old"
    assert verify(run).run != old
    assert not {name for name in names if name.startswith((".", "model", "nonfinite", "stall"))}
    assert not names & {"config.json", "generation_config.json", "checkpoint-2", "checkpoint-8"}
    assert not (run / "samples.jsonl").read_text()


def test_overwrite_with_auto_goes_on_if_there_is_something(train: Train, run: Path) -> None:
    old = read_manifest(run).run
    train(run, resume="auto", overwrite=True, max_steps=5)
    assert read_manifest(run).run == old
    for checkpoint in checkpoints(run):
        shutil.rmtree(checkpoint)
    (run / "stall-rank0.txt").write_text("old")
    train(run, resume="auto", overwrite=True, max_steps=1)
    assert read_manifest(run).run != old
    assert not (run / "stall-rank0.txt").exists()


# Stopped


def test_a_signal_after_training_loses_no_step(train: Train, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    told: dict[str, Any] = {"save_strategy": "no", "eval_strategy": "no"}
    train(whole, **told)
    with pytest.raises(RunStopped, match=r"at step 4; the checkpoint is .*checkpoint-4\. "):
        train(run, callbacks=[Kill(1)], **told)
    assert verify(run / "checkpoint-4").step == 4
    train(run, resume="newest", **told)
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert [line["step"] for line in metrics(run)] == [line["step"] for line in metrics(whole)]


def test_a_signal_before_the_first_step_advises_what_works(train: Train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    told: dict[str, Any] = {"eval_on_start": True, "eval_strategy": "steps", "eval_steps": 4}
    with pytest.raises(RunStopped, match="the same command with --resume auto starts again"):
        train(run, callbacks=[Kill(1)], **told)
    assert (run / "recipe.yaml").is_file()
    with pytest.raises(ConfigError, match="already holds a run"):
        train(run, **told)
    with pytest.raises(RunStopped, match="the same command starts again"):
        train(run, callbacks=[Kill(0)], overwrite=True, **told)
    assert train(run, resume="auto", **told).steps == 4


# Gone on


def test_the_name_of_transformers_means_the_same(train: Train, run: Path) -> None:
    again: dict[str, Any] = {"resume_from_checkpoint": str(run / "checkpoint-2")}
    with pytest.raises(ConfigError, match="--resume_from_checkpoint"):
        train(run, resume="newest", **again)
    train(run, max_steps=5, **again)
    said = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [(one["kind"], one["step"]) for one in said if one["kind"] == "resumed"] == [
        ("resumed", 2)
    ]
    assert "resume_from_checkpoint: null" in (run / "recipe.yaml").read_text()


def test_a_finished_run_is_left_as_it_is(train: Train, run: Path) -> None:
    before = content(run)
    result = train(run, resume="newest")
    assert "the run is finished: 4 steps; nothing is left to do" in train.lines
    assert content(run) == before
    assert result.steps == 4
    told = {**result.evaluation, "verdict": plain(result.verdict)}
    assert told == json.loads(before["evaluation.json"])
    assert [result.train_loss] == [
        line["train_loss"] for line in metrics(run) if "train_loss" in line
    ]
    flip(run / "model.safetensors")
    train(run, resume="newest")
    assert (run / "model.safetensors").read_bytes() == before["model.safetensors"]
    assert train(run, resume="newest", max_steps=5).steps == 5
