"""Two runs on one folder are kept apart, and a lock never outlives its process."""

from __future__ import annotations

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

HOLD = """
import sys
from pathlib import Path
from orpo.runs.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""
# Its child, as a data loader's worker, is another process that inherits all that is open.
HOLD_WITH_A_CHILD = """
import os, sys
from pathlib import Path
from orpo.runs.lock import run_lock
with run_lock(Path(sys.argv[1])):
    child = os.fork()
    if child:
        print(child, flush=True)
    sys.stdin.readline()
    os._exit(0)
"""


@contextlib.contextmanager
def process(program: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process, and the first line that it says."""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stdout is not None
        try:
            yield started, started.stdout.readline().strip()
        finally:
            started.kill()


def test_a_second_process_is_refused_and_told_who_writes_there(tmp_path: Path) -> None:
    with process(HOLD, tmp_path) as (holder, said):
        assert said == "held"
        with pytest.raises(ConfigError) as caught, run_lock(tmp_path):
            pass
        assert f"another run is writing here (process {holder.pid} on " in str(caught.value)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
        said_of = lock_holder(tmp_path)
        assert said_of is not None
        assert said_of.startswith(f"process {holder.pid} on ")
        with pytest.raises(ConfigError), run_lock(tmp_path):
            pass  # to ask has not taken it away


def test_it_is_free_again_when_the_holder_is_done(tmp_path: Path) -> None:
    with process(HOLD, tmp_path) as (holder, _):
        assert holder.stdin is not None
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.wait() == 0
        assert lock_holder(tmp_path) is None
        assert not list(tmp_path.iterdir())
        with run_lock(tmp_path):
            pass


def test_it_is_free_again_when_the_holder_is_killed(tmp_path: Path) -> None:
    with process(HOLD, tmp_path) as (holder, _):
        holder.kill()
        assert holder.wait() == -signal.SIGKILL
        assert (tmp_path / ".lock").exists()
        assert lock_holder(tmp_path) is None
        with run_lock(tmp_path):
            pass
    assert not list(tmp_path.iterdir())


def test_a_child_of_a_killed_holder_does_not_keep_it(tmp_path: Path) -> None:
    with process(HOLD_WITH_A_CHILD, tmp_path) as (holder, child):
        try:
            holder.kill()
            holder.wait()
            os.kill(int(child), 0)  # it is still there
            with run_lock(tmp_path):
                pass
        finally:
            os.kill(int(child), signal.SIGKILL)


def test_one_process_may_take_it_several_times(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        with run_lock(tmp_path / ".." / tmp_path.name):
            pass
        assert str(os.getpid()) in str(lock_holder(tmp_path / ".." / tmp_path.name))
        with process(HOLD, tmp_path) as (_, said):
            assert said == ""  # refused: the inner block has not let go of it


def test_under_another_name_of_the_folder_too(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    with run_lock(tmp_path / "run"):
        with run_lock(tmp_path / "link"):
            pass
        with process(HOLD, tmp_path / "link") as (_, said):
            assert said == ""
    assert not list((tmp_path / "run").iterdir())


def test_folders_apart_do_not_mind_each_other(tmp_path: Path) -> None:
    with process(HOLD, tmp_path / "a") as (_, said), run_lock(tmp_path / "b"):
        assert said == "held"


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
