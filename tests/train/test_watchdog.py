"""A process in which nothing moves any more ends, and says where it hung."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from orpo import ConfigError, ORPOConfig
from orpo.train.guards.watchdog import Watchdog
from tests import forked

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(mode: str, out: Path, timeout: float) -> subprocess.CompletedProcess[str]:
    """A training run in processes of its own; a hang of theirs fails the test."""
    words = ("tests.train.stall_worker", mode, str(out), str(timeout))
    return subprocess.run(
        forked.two_ranks(*words) if mode == "rank" else [forked.python(), "-m", *words],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["loader", "worker"])
def test_a_loader_that_blocks_ends_the_run(tmp_path: Path, mode: str) -> None:
    """Alike if a worker process blocks: it must not outlive the run and keep its pipes open."""
    ended = run(mode, tmp_path, 3)
    assert ended.returncode == 1, ended.stderr[-4000:]
    stacks = tmp_path / "run" / "stall-rank0.txt"
    (line,) = [text for text in ended.stderr.splitlines() if text.startswith("orpo: ")]
    assert line.startswith("orpo: nothing has moved for 3 s at step 3 on rank 0, loading data;")
    assert f"The stacks are in {stacks}." in line
    assert "stall_timeout (now 3 s)" in line
    assert "--resume" in line
    text = stacks.read_text()
    assert "get_batch_samples" in text
    assert ("block_forever" in text) == (mode == "loader")
    assert "done" not in ended.stdout


@pytest.mark.slow
def test_a_rank_that_never_arrives_ends_all(tmp_path: Path) -> None:
    ended = run("rank", tmp_path, 4)
    assert ended.returncode == 1, ended.stderr[-4000:]
    lines = [text for text in ended.stderr.splitlines() if "orpo: nothing has moved" in text]
    assert lines
    assert all("at step 3 on rank" in text for text in lines)
    # Whoever is first ends the other, which may not come to write its own.
    written = {path.name: path.read_text() for path in (tmp_path / "run").glob("stall-rank*.txt")}
    assert written
    for name, where in (("stall-rank0.txt", "training_step"), ("stall-rank1.txt", "block_forever")):
        assert where in written.get(name, where)
    assert "done" not in ended.stdout


@pytest.mark.slow
def test_a_run_that_moves_is_left_alone(tmp_path: Path) -> None:
    """Twenty steps of a quarter of a second, then an evaluation of sixteen such batches."""
    ended = run("slow", tmp_path, 3)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert "done at step 20" in ended.stdout
    assert not list((tmp_path / "run").glob("stall-*"))


SUSPENDED = """\
import os, signal, threading
from pathlib import Path
from orpo.train.guards.watchdog import Watchdog
print(os.getpid(), flush=True)
with Watchdog(4.0).watching(Path.cwd(), 0):
    os.kill(os.getpid(), signal.SIGSTOP)
    threading.Event().wait(1)  # its thread comes to look
print("went on")
"""


@pytest.mark.slow
def test_a_suspended_process_is_no_stall(tmp_path: Path) -> None:
    with subprocess.Popen(
        [forked.python(), "-c", SUSPENDED],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        suspended = psutil.Process(int(process.stdout.readline()))
        while suspended.status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        time.sleep(5)  # longer than its timeout
        suspended.resume()
        output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "went on\n")


STALLED = """\
import sys, threading
from pathlib import Path
from orpo.train.guards.watchdog import Watchdog

def tell(kind, message):
    Path("told").write_text(kind + ": " + message)
watchdog = Watchdog(0.3, tell)
with watchdog.watching(Path(sys.argv[1]), 1), watchdog.during("saving a checkpoint"):
    threading.Event().wait()
"""


@pytest.mark.parametrize("writable", [True, False])
def test_a_stall_is_told_and_shown_even_if_it_cannot_be_written(
    tmp_path: Path, writable: bool
) -> None:
    folder = tmp_path / "run"
    if not writable:
        folder.write_text("a file where the folder should be")
    ended = subprocess.run(
        [forked.python(), "-c", STALLED, str(folder)],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    stacks = (folder / "stall-rank1.txt").read_text() if writable else ended.stderr
    assert "threading.py" in stacks
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("orpo: nothing has moved for 0 s at step 1 on rank 1, saving a checkp")
    assert ("The stacks are above." in last) != writable
    assert "Look at the disk" in last
    if writable:
        assert (tmp_path / "told").read_text().startswith("stall: nothing has moved for 0 s")


def test_phases_within_phases() -> None:
    watchdog = Watchdog(None)
    watchdog.enter("loading data")
    with watchdog.during("saving"):
        assert watchdog._phase == "saving"
    assert watchdog._phase == "loading data"


@pytest.mark.parametrize("timeout", [None, 0])
def test_without_timeout_nobody_looks_on(tmp_path: Path, timeout: float | None) -> None:
    import threading

    before = threading.active_count()
    with Watchdog(timeout).watching(tmp_path, 0):
        assert threading.active_count() == before
    with Watchdog(5.0).watching(tmp_path, 0):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_the_timeout_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stall_timeout: must be at least 0"):
        ORPOConfig(output_dir=str(tmp_path), use_cpu=True, stall_timeout=-1)
    assert (
        ORPOConfig(output_dir=str(tmp_path), use_cpu=True, stall_timeout=None).stall_timeout is None
    )
