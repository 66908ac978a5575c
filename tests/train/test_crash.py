"""SIGKILL at any moment, and a power failure: the run goes on and ends with the same weights.

The moments lie around every kind of operation on a file: a run of twelve steps that saves four
times, deletes old checkpoints and commits its model does about three hundred of them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orpo.runs.checkpoints import checkpoints
from tests import forked
from tests.train.whole_runs import differences

REPOSITORY = Path(__file__).parents[2]
KILLED = -9
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


class Worker:
    """Trains in processes of its own, which it kills as it is told."""

    def __init__(self) -> None:
        command = [forked.python(), "-m", "tests.train.crash_worker"]
        self._process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **QUIET},
        )

    def __call__(self, out: Path, **job: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"out": str(out), **job}), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        with self._process:
            pass
        assert self._process.returncode == 0


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory where there is one: the order of operations is all that matters."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path_factory.mktemp("crash")
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def whole(worker: Worker, scratch: Path) -> tuple[Path, dict[str, Any]]:
    """A run that nobody interrupted, and what it did."""
    folder = scratch / "whole"
    done = worker(folder)
    assert done["status"] == 0
    return folder, done


def killed_and_gone_on(worker: Worker, out: Path, whole: Path, **kills: Any) -> list[str]:
    """What is wrong with a run that was killed, and then went on; nothing, if all is well."""
    again = kills.pop("again", None)
    try:
        if worker(out, **kills)["status"] not in (KILLED, *([0] if "after" in kills else [])):
            return ["was not killed"]
        trusted = [path for path in checkpoints(out) if (path / "manifest.json").exists()]
        if again is not None:
            worker(out, at=again)
        done = worker(out)
        if done["status"] != 0:
            return [f"did not go on with {[path.name for path in trusted]}"]
        return differences(out, whole)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def moments(operations: list[str], every: int) -> list[int]:
    """Numbers of operations: around what gives a checkpoint or a model its name, and others."""
    names = ("/.staging-", "/metrics")
    renames = [
        n
        for n, what in enumerate(operations, 1)
        if "rename" in what or "replace" in what
        if any(name in what for name in names) and "recipe" not in what
    ]
    return sorted({*renames, *range(1, len(operations) + 1, every)})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_kill_around_any_operation_loses_nothing(
    worker: Worker, whole: tuple[Path, dict[str, Any]], scratch: Path
) -> None:
    """Every fifth run is killed once more, early on, as it goes on."""
    folder, done = whole
    chosen = moments(done["operations"], 9)
    assert len(chosen) >= 50
    wrong = {}
    for number, at in enumerate(chosen):
        again = {"again": at % 40 + 1} if number % 5 == 0 else {}
        found = killed_and_gone_on(worker, scratch / f"at-{at}", folder, at=at, **again)
        if found:
            wrong[at, done["operations"][at - 1]] = found
    assert not wrong


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_power_failure_loses_nothing_that_was_committed(
    worker: Worker, whole: tuple[Path, dict[str, Any]], scratch: Path
) -> None:
    """Of every file that no fsync has confirmed a part is gone."""
    folder, done = whole
    wrong = {}
    for at in range(3, len(done["operations"]) + 1, 13):
        found = killed_and_gone_on(worker, scratch / f"at-{at}", folder, at=at, lose=True)
        if found:
            wrong[at, done["operations"][at - 1]] = found
    assert not wrong


@pytest.mark.slow
def test_a_kill_at_any_time_loses_nothing(
    worker: Worker, whole: tuple[Path, dict[str, Any]], scratch: Path
) -> None:
    folder, done = whole
    moment = random.Random(0)
    wrong = {}
    for number in range(10):
        after = moment.uniform(0.2, 1.0) * done["seconds"]
        found = killed_and_gone_on(worker, scratch / f"run-{number}", folder, after=after)
        if found:
            wrong[after] = found
    assert not wrong


@pytest.mark.slow
def test_a_checkpoint_that_lost_bytes_would_be_noticed(
    worker: Worker, whole: tuple[Path, dict[str, Any]], scratch: Path
) -> None:
    """The power failure of these tests is a real one: unfinished saves do lose bytes."""
    _, done = whole
    last = done["operations"]
    at = next(n for n, what in enumerate(last, 1) if "fsync" in what and "checkpoint-3" in what)
    assert worker(scratch / "lost", at=at, lose=True)["status"] == KILLED
    staged = folder_sizes(scratch / "lost" / ".staging-checkpoint-3" / "checkpoint-3")
    committed = folder_sizes(whole[0] / "checkpoint-9")
    assert staged["model.safetensors"] == committed["model.safetensors"] // 2


def folder_sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}
