"""A process in which nothing moves any more ends, and says where it hung."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import TrainerCallback

from orpo import ConfigError, ORPOConfig, ORPOTrainer
from orpo.train.guards import Watchdog
from tests.train.jobs import started
from tests.train.one_step import quiet_trainer
from tests.train.small import text_rows


def block_forever() -> None:
    threading.Event().wait()


class BlockingStream(torch.utils.data.IterableDataset):
    """Rows, and then nothing, without an end."""

    def __iter__(self) -> Iterator[Any]:
        yield from text_rows()
        block_forever()


class NeverArrives(TrainerCallback):
    """The second rank does not begin the third step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if os.environ["RANK"] == "1" and state.global_step == 2:
            block_forever()


class Slow(TrainerCallback):
    """Every step and every batch of an evaluation takes a while."""

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        threading.Event().wait(0.25)

    def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
        threading.Event().wait(0.25)


def run(out: Path, mode: str, timeout: str) -> None:
    """A training in which something hangs or is slow."""
    callback = {"rank": NeverArrives, "slow": Slow}.get(mode, TrainerCallback)()
    trainer = quiet_trainer(
        ORPOTrainer,
        str(out / "run"),
        train_dataset=BlockingStream() if mode == "worker" else text_rows(),
        eval_dataset=text_rows(12) if mode == "slow" else None,
        callbacks=[callback],
        per_device_train_batch_size=2,
        per_device_eval_batch_size=1,
        eval_strategy="steps" if mode == "slow" else "no",
        eval_steps=12,
        dataloader_num_workers=1 if mode == "worker" else 0,
        max_steps=12,
        stall_timeout=float(timeout),
    )
    trainer.train()
    print(f"done at step {trainer.state.global_step}")


@pytest.mark.slow
def test_a_loader_that_blocks_ends_the_run(tmp_path: Path) -> None:
    """The worker process that blocks must not outlive the run and keep its pipes open."""
    ended = started(run, tmp_path, "worker", 2)
    assert ended.returncode == 1, ended.stderr[-4000:]
    stacks = tmp_path / "run" / "stall-rank0.txt"
    (line,) = [text for text in ended.stderr.splitlines() if text.startswith("orpo: ")]
    assert line.startswith("orpo: nothing has moved for 2 s at step 3 on rank 0, loading data;")
    assert f"The stacks are in {stacks}." in line
    assert "stall_timeout (now 2 s)" in line
    assert "--resume" in line
    assert "get_batch_samples" in stacks.read_text()
    assert "done" not in ended.stdout


@pytest.mark.slow
def test_a_rank_that_never_arrives_ends_all(tmp_path: Path) -> None:
    ended = started(run, tmp_path, "rank", 3, ranks=2)
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
    """Steps, and batches of an evaluation, that take longer together than may pass."""
    ended = started(run, tmp_path, "slow", 2)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert "done at step 12" in ended.stdout
    assert not list((tmp_path / "run").glob("stall-*"))


def suspended(out: Path) -> None:
    with Watchdog(2.0).watching(out, 0):
        (out / "process").write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
        threading.Event().wait(0.5)  # its thread comes to look


@pytest.mark.slow
def test_a_suspended_process_is_no_stall(tmp_path: Path) -> None:
    ended: list[int] = []
    thread = threading.Thread(target=lambda: ended.append(started(suspended, tmp_path).returncode))
    thread.start()
    path = tmp_path / "process"
    while not path.is_file() or not path.read_text():
        time.sleep(0.01)
    process = psutil.Process(int(path.read_text()))
    while process.status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
    time.sleep(2.5)  # longer than its timeout
    process.resume()
    thread.join()
    assert ended == [0]
    assert not list(tmp_path.glob("stall-*"))


def stalled(out: Path) -> None:
    def tell(kind: str, message: str) -> None:
        out.with_name("told").write_text(f"{kind}: {message}")

    watchdog = Watchdog(0.3, tell)
    with watchdog.watching(out, 1), watchdog.during("saving a checkpoint"):
        block_forever()


@pytest.mark.parametrize("writable", [True, False])
def test_a_stall_is_told_and_shown_even_if_it_cannot_be_written(
    tmp_path: Path, writable: bool
) -> None:
    folder = tmp_path / "run"
    if not writable:
        folder.write_text("a file where the folder should be")
    ended = started(stalled, folder)
    assert ended.returncode == 1
    stacks = (folder / "stall-rank1.txt").read_text() if writable else ended.stderr
    assert "block_forever" in stacks
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("orpo: nothing has moved for 0 s at step 1 on rank 1, saving a checkp")
    assert ("The stacks are above." in last) != writable
    assert "Look at the disk" in last
    if writable:
        assert (tmp_path / "told").read_text().startswith("stall: nothing has moved for 0 s")


def test_nobody_looks_on_where_there_is_no_timeout(tmp_path: Path) -> None:
    before = threading.active_count()
    for timeout, more in ((None, 0), (0, 0), (5.0, 1)):
        with Watchdog(timeout).watching(tmp_path, 0):
            assert threading.active_count() == before + more
    assert threading.active_count() == before
    plain = {"output_dir": str(tmp_path), "use_cpu": True}
    assert ORPOConfig(**plain, stall_timeout=None).stall_timeout is None
    with pytest.raises(ConfigError, match="stall_timeout: must be at least 0"):
        ORPOConfig(**plain, stall_timeout=-1)
