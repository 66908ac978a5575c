"""Forks processes that train, and kills them at a chosen moment.

python -m tests.train.crash_worker

One line of JSON on stdin for each process: {"out": FOLDER, "at": N} kills it just ahead of its
N-th operation on a file of the folder, {"after": SECONDS} after some time, neither lets it end.
With "lose": true the machine dies with it: what no fsync has confirmed is lost. The answer is a
line with its exit status, its operations and the seconds that it took.

All processes are forked from one that has imported everything: a run takes a fraction of a second.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from orpo.runs.checkpoints import checkpoints
from tests.train.whole_runs import trainer_for

SETTINGS: dict[str, Any] = {
    "max_steps": 12,
    "save_steps": 3,
    "save_total_limit": 2,
    "eval_strategy": "steps",
    "eval_steps": 4,
    "gradient_accumulation_steps": 1,  # it is files that this is about
    "gradient_checkpointing": False,
}
_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link")
_REMOVALS = ("os.remove", "os.rmdir")  # of a whole tree: names relative to an open folder


class Operations:
    """Everything that this process does to files of a folder, one after the other.

    Args:
        folder: The folder.
        kill_at: The number of the operation ahead of which the process is killed; counts from 1.
        lose: Cut off what was written and not confirmed by fsync, as a power failure does.
    """

    def __init__(self, folder: Path, kill_at: int | None, *, lose: bool) -> None:
        self.folder, self.kill_at, self.lose = str(folder), kill_at, lose
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
        if not inside or (event == "open" and not _writes(args)):
            return
        self._count(f"{event} {path.removeprefix(self.folder)}")

    def _around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            what = f"{function.__name__} {_name_of(args[0])}"
            is_sync = function.__name__ == "fsync"
            if is_sync:
                self._count(f"before {what}")
            result = function(*args, **kwargs)
            if is_sync:
                facts = os.fstat(args[0])
                self._synced[facts.st_ino] = facts.st_size
            self._count(f"after {what}")
            return result

        return call

    def _count(self, operation: str) -> None:
        self.seen.append(operation)
        if len(self.seen) == self.kill_at:
            if self.lose:
                self._lose()
            os.kill(os.getpid(), signal.SIGKILL)

    def _lose(self) -> None:
        self.kill_at = None
        for path in Path(self.folder).rglob("*"):
            if path.is_file():
                facts = path.stat()
                confirmed = self._synced.get(facts.st_ino, facts.st_size // 2)
                os.truncate(path, min(confirmed, facts.st_size))


def _name_of(file: Any) -> str:
    descriptors = Path("/proc/self/fd")
    if isinstance(file, int) and descriptors.is_dir():
        return str((descriptors / str(file)).readlink())
    return str(file)


def _writes(args: tuple[Any, ...]) -> bool:
    return bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))


def train(job: dict[str, Any], report: Path) -> None:
    """Train, from the newest checkpoint if there is one, and leave the model in the folder."""
    out = Path(job["out"])
    operations = Operations(out, job.get("at"), lose=job.get("lose", False))
    trainer = trainer_for(out, **SETTINGS)
    trainer.train(resume_from_checkpoint=bool(checkpoints(out)))
    trainer.save_model()
    report.write_text(json.dumps(operations.seen))


def in_a_process(run: Callable[[], None], *, kill_after: float | None = None) -> int:
    """Fork, run, and wait; the exit status is negative where a signal ended it."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            run()
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def warm_up() -> None:
    """Import what is imported late, so that it is there in every process that is forked."""
    torch.set_num_threads(1)  # threads would not survive the fork
    with tempfile.TemporaryDirectory() as folder:
        trainer_for(Path(folder), **{**SETTINGS, "max_steps": 3}).train()
    gc.collect()
    gc.freeze()  # a collection would go through all that was imported, in every process


def main() -> None:
    warm_up()
    for line in sys.stdin:
        job = json.loads(line)
        report = Path(f"{job['out']}.operations")
        began = time.perf_counter()
        status = in_a_process(lambda: train(job, report), kill_after=job.get("after"))  # noqa: B023
        seconds = time.perf_counter() - began
        seen = json.loads(report.read_text()) if report.is_file() else []
        report.unlink(missing_ok=True)
        print(json.dumps({"status": status, "operations": seen, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
