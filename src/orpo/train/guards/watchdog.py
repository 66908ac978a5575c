"""Ends a process that hangs, and says where: a data loader that blocks, a rank that is gone."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from orpo.runs.writing import make_way
from orpo.train.guards.curves import Tell

LOADING = "loading data"
EXCHANGING = "waiting for the other ranks"
COMPUTING = "computing"
EVALUATING = "evaluating"
SAVING = "saving a checkpoint"

_ADVICE = {
    LOADING: "Look at the data source, or try dataloader_num_workers 0.",
    EXCHANGING: "Look for the rank that is behind: its own stall-rank*.txt shows where.",
    SAVING: "Look at the disk that output_dir lies on.",
}
_SECONDS_TO_WRITE = 10.0


class Watchdog(TrainerCallback):
    """Ends this process when nothing has moved for a while, so that a launcher ends the others.

    Something moves when a phase begins, a micro-batch is computed, a batch is evaluated, a step
    ends. A thread looks on; it writes the stacks of all threads to `stall-rankR.txt`, says one line
    on stderr and exits with 1. Time during which the whole process is suspended does not count.

        with watchdog.watching(folder, rank):
            watchdog.enter("loading data")
    """

    def __init__(self, timeout: float | None, tell: Tell | None = None) -> None:
        self._timeout, self._tell = timeout or 0.0, tell
        self._phase = "starting"
        self._step = 0
        self._moves = 0

    def beat(self) -> None:
        """Something moved."""
        self._moves += 1

    def enter(self, phase: str) -> None:
        """A phase begins."""
        self._phase = phase
        self.beat()

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """A phase within another one, which goes on afterwards."""
        before = self._phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    @contextmanager
    def watching(self, folder: Path, rank: int) -> Iterator[None]:
        """Look on while this is open."""
        if not self._timeout:
            yield
            return
        self.enter("starting")
        done = threading.Event()
        thread = threading.Thread(
            target=self._look_on, args=(done, folder, rank), name="orpo-watchdog", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _look_on(self, done: threading.Event, folder: Path, rank: int) -> None:
        tick = min(self._timeout / 10, 10.0)
        seen, still, last = self._moves, 0.0, time.monotonic()
        while not done.wait(tick):
            now = time.monotonic()
            # A tick that took far longer was no stall: the process itself was suspended.
            still, last = still + min(now - last, 2 * tick), now
            if self._moves != seen:
                seen, still = self._moves, 0.0
            elif still >= self._timeout:
                self._end(still, folder, rank)

    def _end(self, still: float, folder: Path, rank: int) -> None:
        where, phase = folder / f"stall-rank{rank}.txt", self._phase
        head = (
            f"nothing has moved for {still:.0f} s at step {self._step + 1} on rank {rank}, {phase}"
        )
        advice = _ADVICE.get(phase, "The stack shows where.")
        raised = f"If it may take so long, raise stall_timeout (now {self._timeout:g} s)."

        def write() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            make_way(where)
            with where.open("w", encoding="utf-8") as file:
                file.write(f"{head}\n\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
            written.set()
            if self._tell is not None:
                self._tell("stall", f"{head}; the run was ended. The stacks are in {where}.")

        def quietly() -> None:
            with suppress(Exception):
                write()

        written = threading.Event()
        thread = threading.Thread(target=quietly, daemon=True)
        thread.start()
        thread.join(_SECONDS_TO_WRITE)  # the disk may be what hangs
        with suppress(OSError, ValueError):  # stderr may be closed
            if not written.is_set():
                faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
            stacks = f"in {where}" if written.is_set() else "above"
            line = f"{head}; the run is ended. The stacks are {stacks}. {advice} {raised}"
            print(f"orpo: {line} Go on with --resume.", file=sys.stderr, flush=True)
        for child in multiprocessing.active_children():
            child.kill()  # a blocked worker of the data loader would outlive this process
        os._exit(1)

    # What transformers calls

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A resumed run begins at a later step."""
        self._step = state.global_step
        self.beat()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The data are there."""
        self._step = state.global_step
        self.enter(COMPUTING)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step was taken."""
        self._step = state.global_step
        self.beat()

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A batch was evaluated."""
        self.beat()
