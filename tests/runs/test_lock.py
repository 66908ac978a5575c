"""Two runs on one folder are kept apart, and a lock never outlives its process."""

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orpo.errors import ConfigError
from orpo.runs.lock import lock_holder, run_lock

# Its child, as a data loader's worker, is another process that inherits all that is open.
HOLD = """
import os, sys
from pathlib import Path
from orpo.runs.lock import run_lock
with run_lock(Path(sys.argv[1])):
    child = os.fork() if sys.argv[2:] else 1
    if child:
        print("held", child, flush=True)
    sys.stdin.readline()
    if not child:
        os._exit(0)
"""


@contextlib.contextmanager
def process(folder: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Another process that takes the lock, and what it says."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as started:
        assert started.stdout is not None
        try:
            yield started, started.stdout.readline().split()
        finally:
            started.kill()


def is_refused(folder: Path) -> bool:
    with process(folder) as (_, said):
        return said == []


def test_a_second_process_is_refused_and_told_who_writes_there(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with process(run) as (holder, said):
        assert said == ["held", "1"]
        for _ in range(2):  # to ask has not taken it away
            with pytest.raises(ConfigError) as caught, run_lock(run):
                pass
            text = str(caught.value)
            assert f"{run}: another run is writing here (process {holder.pid} on " in text
            assert "\n" not in text
            assert str(lock_holder(run)).startswith(f"process {holder.pid} on ")
        with run_lock(tmp_path / "another"):
            pass
        assert holder.stdin is not None
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.wait() == 0
    assert lock_holder(run) is None
    assert not run.exists()
    with run_lock(run):
        pass


def test_it_is_free_when_its_holder_is_killed_whatever_its_children_do(tmp_path: Path) -> None:
    with process(tmp_path, "with a child") as (holder, (_, child)):
        try:
            holder.kill()
            assert holder.wait() == -signal.SIGKILL
            os.kill(int(child), 0)  # it is still there
            assert (tmp_path / ".lock").exists()
            assert lock_holder(tmp_path) is None
            with run_lock(tmp_path):
                pass
        finally:
            os.kill(int(child), signal.SIGKILL)
    assert not list(tmp_path.iterdir())


def test_one_process_may_take_it_several_times_under_any_name_of_the_folder(tmp_path: Path) -> None:
    run, link = tmp_path / "run", tmp_path / "link"
    run.mkdir()
    link.symlink_to("run")
    with run_lock(run):
        for name in (run / ".." / "run", link):
            with run_lock(name):
                pass
            # Neither the inner block nor the question has let go of it.
            assert f"process {os.getpid()} " in str(lock_holder(name))
            assert is_refused(name)
    assert not list(run.iterdir())
    (run / ".lock").write_text('{"pid": 1, "host": "h"}', encoding="utf-8")  # of a killed one
    assert lock_holder(run) is None
    assert not is_refused(run)


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file, not a folder"), run_lock(tmp_path / "file"):
        pass
    below = tmp_path / "file" / "run"
    with pytest.raises(ConfigError, match=r"cannot be written to \(Not a"), run_lock(below):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_that_keeps_no_locks_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def lockf(descriptor: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    (tmp_path / ".lock").write_text('{"pid": 1, "host": "h"}', encoding="utf-8")
    assert lock_holder(tmp_path) is None
    with run_lock(tmp_path) as outer, run_lock(tmp_path) as inner:
        assert outer == inner
        assert f"out of {tmp_path} ({os.strerror(number)})" in str(outer)
    assert not list(tmp_path.iterdir())
