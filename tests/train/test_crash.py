"""SIGKILL at any moment, and a power failure: the run goes on and ends with the same weights.

The moments lie around every kind of operation on a file: a run of six steps that saves three
times, deletes an old checkpoint and commits its model does more than two hundred of them.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orpo.runs.checkpoints import checkpoints
from tests.train.jobs import started
from tests.train.whole_runs import differences, finished

KILLED = -9
SETTINGS: dict[str, Any] = {
    "max_steps": 6,
    "save_steps": 2,
    "save_total_limit": 2,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "gradient_accumulation_steps": 1,  # it is files that this is about
    "gradient_checkpointing": False,
}
_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link")
_REMOVALS = ("os.remove", "os.rmdir")  # of a whole tree: names relative to an open folder
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Operations:
    """Everything that this process does to files of a folder, one after the other.

    Ahead of operation `at`, counted from 1, it is killed; with `lose`, what was written and not
    confirmed by fsync is cut off, as a power failure does.
    """

    def __init__(self, folder: Path, at: int | None = None, *, lose: bool = False) -> None:
        self.folder, self.at, self.lose = str(folder), at, lose
        self.seen: list[str] = []
        self._synced: dict[int, int] = {}  # inode -> bytes
        sys.addaudithook(self._heard)
        # fsync tells no audit hook, and no hook hears when an operation is done.
        os.fsync = self._around(os.fsync)
        os.rename = self._around(os.rename)
        os.replace = self._around(os.replace)

    def _heard(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in _EVENTS or not isinstance(args[0], str | os.PathLike):
            return
        path = os.fspath(args[0])
        relative = event in _REMOVALS and not Path(path).is_absolute()
        inside = path.startswith(self.folder) or relative
        if inside and (event != "open" or args[2] & _WRITES):
            self._count(f"{event} {path.removeprefix(self.folder)}")

    def _around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            file, is_sync = args[0], function.__name__ == "fsync"
            name = Path(f"/proc/self/fd/{file}").readlink() if isinstance(file, int) else file
            if is_sync:
                self._count(f"before fsync {name}")
            result = function(*args, **kwargs)
            if is_sync:
                facts = os.fstat(file)
                self._synced[facts.st_ino] = facts.st_size
            self._count(f"after {function.__name__} {name}")
            return result

        return call

    def _count(self, operation: str) -> None:
        self.seen.append(operation)
        if len(self.seen) == self.at:
            self.at = None
            for path in Path(self.folder).rglob("*") if self.lose else ():
                if path.is_file():
                    facts = path.stat()
                    confirmed = self._synced.get(facts.st_ino, facts.st_size // 2)
                    os.truncate(path, min(confirmed, facts.st_size))
            os.kill(os.getpid(), signal.SIGKILL)


def train(out: Path, kill: str) -> None:
    """Train, from the newest checkpoint if there is one, until it is killed or done."""
    how = json.loads(kill)
    if after := how.pop("after", None):
        threading.Timer(after, os.kill, (os.getpid(), signal.SIGKILL)).start()
    began, operations = time.perf_counter(), Operations(out, **how)
    finished(out, resume=bool(checkpoints(out)), **SETTINGS)
    told = {"operations": operations.seen, "seconds": time.perf_counter() - began}
    Path(f"{out}.json").write_text(json.dumps(told))
    os._exit(0)  # whoever was to kill it comes too late


def trained(out: Path, **kill: Any) -> int:
    return started(train, out, json.dumps(kill)).returncode


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
def whole(scratch: Path) -> tuple[Path, list[str], float]:
    """A run that nobody interrupted, what it did to files, and how long it took."""
    folder = scratch / "whole"
    assert trained(folder) == 0
    done = json.loads(Path(f"{folder}.json").read_text())
    return folder, done["operations"], done["seconds"]


def wrong(whole: tuple[Path, list[str], float], again: int = 0, **kill: Any) -> list[str]:
    """What is wrong with a run that was killed, and then went on; nothing, if all is well."""
    out = whole[0].with_name("run")
    try:
        if trained(out, **kill) not in (KILLED, *([0] if "after" in kill else [])):
            return ["was not killed"]
        trusted = [path.name for path in checkpoints(out) if (path / "manifest.json").exists()]
        if again:
            trained(out, at=again)
        if trained(out) != 0:
            return [f"did not go on with {trusted}"]
        return differences(out, whole[0])
    finally:
        shutil.rmtree(out, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_kill_or_a_power_failure_around_any_operation_loses_nothing_that_was_committed(
    whole: tuple[Path, list[str], float],
) -> None:
    """Around what gives a checkpoint or a model its name, and others; some are killed twice.

    After every second one, of every file that no fsync has confirmed a part is gone.
    """
    operations = whole[1]
    renames = [
        n
        for n, what in enumerate(operations, 1)
        if ("rename" in what or "replace" in what) and "recipe" not in what
        if "/.staging-" in what or "/metrics" in what
    ]
    chosen = sorted({*renames[::2], *range(1, len(operations) + 1, 37)})
    assert len(chosen) >= 12
    found = {
        (at, operations[at - 1]): wrong(
            whole, at % 40 + 1 if number % 5 == 0 else 0, at=at, lose=number % 2 == 1
        )
        for number, at in enumerate(chosen)
    }
    assert not {what: faults for what, faults in found.items() if faults}


@pytest.mark.slow
def test_a_kill_at_any_time_loses_nothing(whole: tuple[Path, list[str], float]) -> None:
    moment = random.Random(0)
    times = [moment.uniform(0.2, 1.0) * whole[2] for _ in range(3)]
    assert not {after: faults for after in times if (faults := wrong(whole, after=after))}


@pytest.mark.slow
def test_the_power_failure_does_lose_bytes(whole: tuple[Path, list[str], float]) -> None:
    folder, operations, _ = whole
    at = next(
        n for n, what in enumerate(operations, 1) if "fsync" in what and "checkpoint-2" in what
    )
    out, name = folder.with_name("lost"), "model.safetensors"
    assert trained(out, at=at, lose=True) == KILLED
    size = (folder / "checkpoint-6" / name).stat().st_size
    assert (out / ".staging-checkpoint-2/checkpoint-2" / name).stat().st_size == size // 2
