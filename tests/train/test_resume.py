"""A run that goes on is, to the bit, the run that was never stopped: weights and metrics.

Each case runs once without a stop and saves after every step; from some of these checkpoints it
goes on, in a folder that looks as if the process had been killed there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import datasets
import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

from orpo import ORPOTrainer
from orpo.data.sources import Mixture
from orpo.errors import CheckpointError, ConfigError, NonFiniteError
from orpo.runs.checkpoints import checkpoints
from orpo.runs.manifest import read_manifest
from orpo.train.checkpoints import Progress, read_progress
from orpo.train.signals import StopOnSignal
from tests import forked
from tests.train.small import Stream, text_rows, tiny_llama
from tests.train.whole_runs import differences, lines_of, same_bits, state_of, trainer_for

REPOSITORY = Path(__file__).parents[2]
STEPS = 8  # eleven pairs, two by two, twice: an epoch has three steps, the last one of three pairs


class StopAfter(TrainerCallback):
    """Ends the run after a step, as a kill does: without a word."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def interrupted(trainer: ORPOTrainer, **kwargs: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        trainer.train(**kwargs)


def shuffled_stream() -> datasets.IterableDataset:
    rows = datasets.Dataset.from_list(text_rows(11))
    return rows.to_iterable_dataset().shuffle(seed=0, buffer_size=8)


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


EVALUATE = {"eval_strategy": "steps", "eval_steps": 2}
AT_EPOCHS = {"max_steps": -1, "num_train_epochs": 3}
CASES: dict[str, tuple[list[int], Callable[[], dict[str, Any]]]] = {
    "every step": ([*range(1, STEPS + 1)], lambda: {}),
    "no accumulation": ([5, 6, 7], lambda: {"gradient_accumulation_steps": 1}),
    "micro-batches": ([2, 3], lambda: {"max_tokens_per_microbatch": 120}),
    "padded": ([2, 3], lambda: {"engine": "padded", "max_tokens_per_microbatch": 300}),
    "bf16": ([2, 5], lambda: {"bf16": True}),
    "dropout and noise": ([1, 3, 5], dropout),
    "LoRA with dropout": ([2, 3], lora),
    "evaluation": ([3, 4], lambda: {**EVALUATE, "eval_on_start": True}),
    "evaluation with dropout": ([3, 4], lambda: {**EVALUATE, **dropout()}),
    "a mix": (
        [2, 4],
        lambda: {"train_dataset": Mixture([text_rows(9), text_rows(7)[::-1]], [2, 1])},
    ),
    "a stream": ([2, 3, 5], lambda: {"train_dataset": Stream(text_rows(11))}),
    "a shuffled stream": ([2, 4, 7], lambda: {"train_dataset": shuffled_stream()}),
    "a worker process": ([4], lambda: {"dataloader_num_workers": 1}),
    "learning rate by evaluation": (
        [3, 5],
        lambda: {
            **EVALUATE,
            "lr_scheduler_type": "reduce_lr_on_plateau",
            "lr_scheduler_kwargs": {"patience": 0},
        },
    ),
    "whole epochs": (
        [3, 4, 6, 9],
        lambda: {
            **AT_EPOCHS,
            "eval_strategy": "epoch",
            "logging_strategy": "epoch",
        },
    ),
    "evaluation at epochs": ([3, 6, 9], lambda: {**AT_EPOCHS, "eval_strategy": "epoch"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_goes_on_to_the_bit(tmp_path: Path, case: str) -> None:
    places, settings = CASES[case]
    given = {"max_steps": STEPS, "save_steps": 1}
    whole = trainer_for(tmp_path / "whole", **{**given, **settings()})
    whole.train()
    whole.save_model()
    wrong = {}
    for place in places:
        folder = tmp_path / f"from-{place}"
        looks_killed(tmp_path / "whole", folder, place)
        trainer = trainer_for(folder, **{**given, **settings()})
        trainer.train(resume_from_checkpoint=True)
        trainer.save_model()
        if found := differences(folder, tmp_path / "whole"):
            wrong[place] = found
    assert not wrong


def looks_killed(whole: Path, folder: Path, step: int) -> None:
    """The folder of a run whose newest checkpoint is of this step; it went on, and was killed."""
    folder.mkdir()
    for name in ("recipe.yaml", "metrics.jsonl"):
        shutil.copy(whole / name, folder)
    shutil.copytree(whole / f"checkpoint-{step}", folder / f"checkpoint-{step}")


def test_the_cases_notice_what_goes_wrong(tmp_path: Path) -> None:
    """One row in another place is enough."""
    rows = text_rows(11)
    for name, data in (("whole", rows), ("other", [rows[1], rows[0], *rows[2:]])):
        trainer = trainer_for(tmp_path / name, train_dataset=data, max_steps=4, save_steps=2)
        trainer.train()
        trainer.save_model()
    assert len(differences(tmp_path / "other", tmp_path / "whole")) > 5


def test_a_run_that_goes_on_twice(tmp_path: Path) -> None:
    settings = {"max_steps": STEPS, "save_steps": 2, "logging_steps": 3, **EVALUATE}
    whole, folder = tmp_path / "whole", tmp_path / "run"
    trainer = trainer_for(whole, **settings)
    output = trainer.train()
    trainer.save_model()
    interrupted(trainer_for(folder, callbacks=[StopAfter(3)], **settings))
    interrupted(
        trainer_for(folder, callbacks=[StopAfter(7)], **settings), resume_from_checkpoint=True
    )
    last = trainer_for(folder, **settings)
    assert last.train(resume_from_checkpoint=True).training_loss == output.training_loss
    last.save_model()
    assert not differences(folder, whole)
    assert state_of(last) == state_of(trainer)
    assert len({read_manifest(path).run for path in checkpoints(folder)}) == 1


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    settings = {"max_steps": 4, "save_steps": 2, **EVALUATE}
    first = trainer_for(tmp_path, **settings)
    first.train()
    first.save_model()
    lines = lines_of(tmp_path)
    again = trainer_for(tmp_path, **settings)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4
    assert same_bits(again.model.parameters(), first.model.parameters())
    assert lines_of(tmp_path) == lines


def test_to_evaluate_changes_nothing(tmp_path: Path) -> None:
    """Though it draws from the random numbers that dropout draws from."""
    weights = []
    for name, settings in (("plain", {}), ("evaluated", EVALUATE)):
        trainer = trainer_for(tmp_path / name, max_steps=4, **settings, **dropout())
        trainer.train()
        weights.append([*trainer.model.parameters()])
    assert same_bits(*weights)


class CutOff(TrainerCallback):
    """SIGTERM in the middle of the evaluation after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.step = -1
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
@pytest.mark.parametrize("step", [3, 6], ids=["an epoch's end", "the run's end"])
def test_an_evaluation_that_was_cut_off_is_made_up_for(
    tmp_path: Path, step: int, strategy: str
) -> None:
    settings = {"max_steps": 6, "save_steps": 4, "eval_strategy": strategy, "eval_steps": 3}
    whole, folder = tmp_path / "whole", tmp_path / "run"
    trainer = trainer_for(whole, **settings)
    trainer.train()
    trainer.save_model()
    stopped = trainer_for(folder, callbacks=[StopOnSignal(), CutOff(step)], **settings)
    stopped.train()
    assert stopped.stopped
    assert stopped.committed_step == step
    assert not [line for line in lines_of(folder) if "eval_loss" in line and line["step"] == step]
    resumed = trainer_for(folder, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert not resumed.stopped
    resumed.save_model()
    assert not differences(folder, whole)


@pytest.mark.parametrize("stop", [3, 5])
def test_the_best_checkpoint_is_kept_and_loaded(tmp_path: Path, stop: int) -> None:
    """The best one is an early one, because the loss is said to be the better the larger."""
    settings: dict[str, Any] = {
        "max_steps": STEPS,
        "save_steps": 2,
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "greater_is_better": True,
        **EVALUATE,
    }
    whole = trainer_for(tmp_path / "whole", **settings)
    whole.train()
    whole.save_model()
    folder = tmp_path / "run"
    interrupted(trainer_for(folder, callbacks=[StopAfter(stop)], **settings))
    resumed = trainer_for(folder, **settings)
    resumed.train(resume_from_checkpoint=True)
    resumed.save_model()
    assert not differences(folder, tmp_path / "whole")
    best = resumed.state.best_global_step
    assert best == whole.state.best_global_step
    assert best is not None
    assert best < STEPS
    assert resumed.state.best_model_checkpoint == str(folder / f"checkpoint-{best}")
    kept = [path.name for path in checkpoints(folder)]
    assert kept == [f"checkpoint-{best}", f"checkpoint-{STEPS}"]


class TestDamage:
    """A newest checkpoint that was damaged costs its steps and nothing else."""

    settings: ClassVar = {"max_steps": 6, "save_steps": 2}

    @pytest.mark.parametrize(
        "name", ["model.safetensors", "optimizer.pt", "rng_state.pth", "manifest.json"]
    )
    def test_the_one_before_is_taken_and_it_is_said(self, tmp_path: Path, name: str) -> None:
        whole, folder = tmp_path / "whole", tmp_path / "run"
        trainer = trainer_for(whole, **self.settings)
        trainer.train()
        trainer.save_model()
        interrupted(trainer_for(folder, callbacks=[StopAfter(5)], **self.settings))
        flip_a_bit(folder / "checkpoint-4" / name)
        said: list[str] = []
        resumed = trainer_for(folder, **self.settings)
        resumed.say = said.append
        resumed.train(resume_from_checkpoint=True)
        resumed.save_model()
        passed_over = [line for line in said if line.startswith("checkpoint-4 is passed over")]
        assert len(passed_over) == 1
        assert name in passed_over[0]
        assert not differences(folder, whole)

    def test_the_one_that_is_asked_for_is_refused(self, tmp_path: Path) -> None:
        trainer_for(tmp_path, **self.settings).train()
        flip_a_bit(tmp_path / "checkpoint-4" / "model.safetensors")
        named = str(tmp_path / "checkpoint-4")
        with pytest.raises(CheckpointError, match=r"model\.safetensors is not what was committed"):
            trainer_for(tmp_path, **self.settings).train(resume_from_checkpoint=named)

    def test_none_is_left(self, tmp_path: Path) -> None:
        trainer_for(tmp_path, **self.settings).train()
        for path in checkpoints(tmp_path):
            flip_a_bit(path / "optimizer.pt")
        with pytest.raises(CheckpointError, match=r"none of its checkpoints can be used") as caught:
            trainer_for(tmp_path, **self.settings).train(resume_from_checkpoint=True)
        assert all(f"checkpoint-{step}" in str(caught.value) for step in (2, 4, 6))
        assert "\n" not in str(caught.value)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    trainer_for(tmp_path, max_steps=2, save_steps=1).train()
    changed = trainer_for(tmp_path, max_steps=2, save_steps=1, learning_rate=2e-2)
    with pytest.raises(ConfigError, match="learning_rate"):
        changed.train(resume_from_checkpoint=True)


@pytest.mark.slow
def test_two_ranks_go_on_to_the_bit(tmp_path: Path) -> None:
    """The signal reached one of them; both commit the same checkpoint, and end."""
    for mode in ("begin", "go on"):
        done = subprocess.run(
            forked.two_ranks("tests.train.resume_worker", mode, tmp_path),
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        names = [path.name for path in checkpoints(tmp_path / "map")]
        last = ["checkpoint-3", "checkpoint-5"]
        assert names == (last if mode == "begin" else [*last, "checkpoint-6", "checkpoint-8"])
    for kind in ("map", "stream"):
        assert not differences(tmp_path / kind, tmp_path / f"{kind}-whole")


def kinds(folder: Path) -> list[str]:
    text = (folder / "events.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["kind"] for line in text.splitlines()]


class TestAnOlderCheckpoint:
    """A run that goes on from one that is not its newest leaves the later ones behind."""

    settings: ClassVar = {"max_steps": 8, "save_steps": 2, "save_total_limit": 2}

    def test_later_ones_are_set_aside_and_not_taken_again(self, tmp_path: Path) -> None:
        whole, folder = tmp_path / "whole", tmp_path / "run"
        trainer = trainer_for(whole, **self.settings)
        trainer.train()
        trainer.save_model()
        trainer_for(folder, **{**self.settings, "save_total_limit": None}).train()
        said: list[str] = []
        branch = trainer_for(folder, callbacks=[StopAfter(5)], **self.settings)
        branch.say = said.append
        interrupted(branch, resume_from_checkpoint=str(folder / "checkpoint-2"))
        assert [path.name for path in checkpoints(folder)] == ["checkpoint-2", "checkpoint-4"]
        assert "abandoned" in kinds(folder)
        told = "what comes after it is set aside: checkpoint-4 as abandoned-checkpoint-4, "
        assert any(line.startswith(told) for line in said)
        for step in (4, 6, 8):
            assert read_manifest(folder / f"abandoned-checkpoint-{step}").step == step
        last = trainer_for(folder, **self.settings)
        last.train(resume_from_checkpoint=True)
        last.save_model()
        assert [path.name for path in checkpoints(folder)] == ["checkpoint-6", "checkpoint-8"]
        assert not differences(folder, whole)

    def test_what_is_refused_sets_nothing_aside(self, tmp_path: Path) -> None:
        trainer_for(tmp_path, **self.settings).train()
        other = trainer_for(tmp_path, **{**self.settings, "learning_rate": 2e-2})
        with pytest.raises(ConfigError, match="learning_rate"):
            other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
        assert (tmp_path / "checkpoint-8").is_dir()


class TestWhereTheRunFolderSuffered:
    settings: ClassVar = {"max_steps": 6, "save_steps": 2, "logging_steps": 1}

    @pytest.mark.parametrize(
        "damage",
        [
            lambda folder: (folder / "metrics.jsonl").unlink(),
            lambda folder: (folder / "metrics.jsonl").write_text('{"step": 7}\n{"st'),
            lambda folder: (folder / "metrics.jsonl").write_bytes(b"\xff\n" * 9),
            lambda folder: (folder / "recipe.yaml").write_text("a: [1"),
        ],
        ids=["no metrics", "metrics cut", "metrics overwritten", "a broken recipe"],
    )
    def test_the_checkpoint_has_all_that_it_takes(
        self, tmp_path: Path, damage: Callable[[Path], None]
    ) -> None:
        whole, folder = tmp_path / "whole", tmp_path / "run"
        trainer = trainer_for(whole, **self.settings)
        trainer.train()
        trainer.save_model()
        interrupted(trainer_for(folder, callbacks=[StopAfter(5)], **self.settings))
        damage(folder)
        resumed = trainer_for(folder, **self.settings)
        resumed.train(resume_from_checkpoint=True)
        resumed.save_model()
        assert not differences(folder, whole)

    def test_a_run_folder_may_be_named_and_another_written_to(self, tmp_path: Path) -> None:
        whole, there = tmp_path / "whole", tmp_path / "there"
        trainer = trainer_for(whole, **self.settings)
        trainer.train()
        trainer.save_model()
        interrupted(trainer_for(there, callbacks=[StopAfter(5)], **self.settings))
        trainer_for(there, **self.settings).save_model()  # and a manifest of a model with it
        flip_a_bit(there / "checkpoint-4" / "optimizer.pt")
        said: list[str] = []
        resumed = trainer_for(tmp_path / "here", **self.settings)
        resumed.say = said.append
        resumed.train(resume_from_checkpoint=str(there))
        resumed.save_model()
        assert said[0] == "checkpoint-4 is passed over: optimizer.pt is not what was committed"
        assert not differences(tmp_path / "here", whole)
        assert (there / "checkpoint-4").is_dir()

    def test_a_path_where_nothing_is(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"Leave --resume \(resume_from_checkpoint\) out"):
            trainer_for(tmp_path, **self.settings).train(resume_from_checkpoint="nowhere")


class TestProgress:
    def test_of_a_newer_version(self, tmp_path: Path) -> None:
        (tmp_path / "progress.json").write_text('{"metric_lines": 3, "of_the_future": [1]}')
        assert read_progress(tmp_path) == Progress(metric_lines=3)

    @pytest.mark.parametrize(
        ("text", "said"),
        [(None, "has no progress.json"), ("{", "cannot be read"), ("3", "cannot be read")],
    )
    def test_that_is_none(self, tmp_path: Path, text: str | None, said: str) -> None:
        if text is not None:
            (tmp_path / "progress.json").write_text(text)
        with pytest.raises(CheckpointError, match=said):
            read_progress(tmp_path)


class TestFailure:
    """What ended a run is in its events, where they can be written."""

    def test_a_loss_that_is_no_number(self, tmp_path: Path) -> None:
        trainer = trainer_for(tmp_path, max_steps=2)
        with torch.no_grad():
            trainer.model.get_input_embeddings().weight.fill_(float("nan"))
        with pytest.raises(NonFiniteError) as caught:
            trainer.train()
        last = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1])
        assert (last["kind"], last["message"]) == ("failed", str(caught.value))

    def test_a_line_that_did_not_fit_is_not_left_in_half(self, tmp_path: Path) -> None:
        """The limit on a file's size ends a write in the middle, as a full disk does."""
        path = tmp_path / "metrics.jsonl"
        code = (
            "import pathlib, resource, signal, sys\n"
            "from orpo.train.recorder import _append\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
            "for _ in range(9): _append(pathlib.Path(sys.argv[1]), 29 * 'a' + '\\n')\n"
        )
        done = subprocess.run(
            [forked.python(), "-c", code, str(path)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "SaveError" in done.stderr
        assert path.read_text() == 3 * (29 * "a" + "\n")
