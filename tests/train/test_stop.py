"""SIGTERM and SIGINT in each phase of `orpo train`: exit code, one checkpoint, and the way on.

Every command here is the real one in a process of its own, with its real signal handlers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orpo.runs.checkpoints import checkpoints
from orpo.runs.manifest import verify
from tests import forked
from tests.train.small import byte_tokenizer, text_rows, tiny_llama
from tests.train.whole_runs import differences

REPOSITORY = Path(__file__).parents[2]
SETTINGS = {
    "max_steps": 8,
    "save_steps": 3,
    "logging_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 4,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-2,
    "warmup_steps": 0,
    "samples": 1,
    "sample_tokens": 4,
    "use_cpu": "true",
    "report_to": "none",
    "data_cache": "off",
}
FLAGS = [text for name, value in SETTINGS.items() for text in (f"--{name}", str(value))]
NUMBERS = [signal.SIGTERM, signal.SIGINT]
PHASES = {
    "step 5": ["checkpoint-3", "checkpoint-5"],
    "evaluation at step 4": ["checkpoint-3", "checkpoint-4"],
    "checkpoint-3/progress.json": ["checkpoint-3"],  # while that is being saved
    "loading after step 3": ["checkpoint-3"],  # an epoch's end
    "loading after step 5": ["checkpoint-3", "checkpoint-5"],
    "step 8": ["checkpoint-3", "checkpoint-6", "checkpoint-8"],
}


@dataclass
class Done:
    """How a command ended."""

    status: int
    err: str


class Commands:
    """Runs `orpo train` on a tiny model, in processes forked from a warm one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tiny_llama().save_pretrained(folder / "model")
        byte_tokenizer().save_pretrained(folder / "model")
        for name, count in (("train", 11), ("test", 5)):
            lines = [json.dumps(row) + "\n" for row in text_rows(count)]
            (folder / f"{name}.jsonl").write_text("".join(lines))
        self._process = subprocess.Popen(
            [forked.python(), "-m", "tests.train.stop_worker"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )

    def __call__(
        self, out: Path, *more: str, moment: str | None = None, signals: list[int] | None = None
    ) -> Done:
        files = {name: str(self.folder / name) for name in ("stdout", "stderr")}
        argv = ["train", "--model", str(self.folder / "model"), "--output_dir", str(out)]
        argv += ["--dataset", str(self.folder / "train.jsonl"), *FLAGS, *more]
        argv += ["--eval_dataset", str(self.folder / "test.jsonl")]
        job = {"argv": argv, "moment": moment, "signals": signals or [], **files}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)
        status = json.loads(self._process.stdout.readline())["status"]
        return Done(status, Path(files["stderr"]).read_text())

    def close(self) -> None:
        with self._process:
            pass
        assert self._process.returncode == 0


@pytest.fixture(scope="module")
def orpo_train(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    commands = Commands(tmp_path_factory.mktemp("stop"))
    yield commands
    commands.close()


@pytest.fixture(scope="module")
def whole(orpo_train: Commands) -> Path:
    """A run that nobody stopped."""
    folder = orpo_train.folder / "whole"
    done = orpo_train(folder)
    assert done.status == 0, done.err
    return folder


def names(folder: Path) -> list[str]:
    found = checkpoints(folder)
    for path in found:
        verify(path)
    return [path.name for path in found]


def evidence(folder: Path) -> list[str]:
    return [(folder / name).read_text() for name in ("evaluation.json", "samples.jsonl")]


@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.name)
@pytest.mark.parametrize("moment", PHASES)
def test_one_checkpoint_and_the_way_on(
    orpo_train: Commands, whole: Path, tmp_path: Path, moment: str, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    stopped = orpo_train(run, moment=moment, signals=[number])
    assert stopped.status == 128 + number, stopped.err
    assert names(run) == PHASES[moment]
    assert "Traceback" not in stopped.err
    last = stopped.err.splitlines()[-1]
    step = PHASES[moment][-1].removeprefix("checkpoint-")
    assert last.startswith(f"stopped by {number.name} at step {step}; ")
    assert str(run / PHASES[moment][-1]) in last
    assert "--resume" in last
    assert not [path.name for path in run.iterdir() if path.name.startswith(".")]

    resumed = orpo_train(run, "--resume")
    assert resumed.status == 0, resumed.err
    assert not differences(run, whole)
    assert evidence(run) == evidence(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    ["evaluation at step 8", ".staging-model/config.json"],
    ids=["after training", "while saving the model"],
)
def test_after_the_last_step(
    orpo_train: Commands, whole: Path, tmp_path: Path, moment: str
) -> None:
    run = tmp_path / "run"
    stopped = orpo_train(run, moment=moment, signals=[signal.SIGTERM])
    assert stopped.status == 143, stopped.err
    assert "Traceback" not in stopped.err
    assert "--resume" in stopped.err.splitlines()[-1]
    resumed = orpo_train(run, "--resume")
    assert resumed.status == 0, resumed.err
    assert not differences(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["evaluation at step 0", "stop0/train.jsonl"])
def test_before_training_begins(
    orpo_train: Commands, whole: Path, tmp_path: Path, moment: str
) -> None:
    run = tmp_path / "run"
    stopped = orpo_train(run, moment=moment, signals=[signal.SIGTERM])
    assert stopped.status == 143, stopped.err
    assert "Traceback" not in stopped.err
    assert "before training began" in stopped.err.splitlines()[-1]
    assert not checkpoints(run)
    again = orpo_train(run, "--resume", "auto")
    assert again.status == 0, again.err
    assert not differences(run, whole)


@pytest.mark.slow
def test_a_second_signal_ends_at_once(orpo_train: Commands, tmp_path: Path) -> None:
    """In the middle of a step: there is no checkpoint of it."""
    twice = orpo_train(tmp_path / "a", moment="step 5", signals=[signal.SIGTERM] * 2)
    assert twice.status == -signal.SIGTERM
    assert names(tmp_path / "a") == ["checkpoint-3"]
    twice = orpo_train(tmp_path / "b", moment="step 5", signals=[signal.SIGINT] * 2)
    assert twice.status in (130, -signal.SIGINT)
    assert names(tmp_path / "b") == ["checkpoint-3"]
    assert "Traceback" not in twice.err
