"""What looks on while a run trains: at the curves, and whether anything moves at all."""

import faulthandler
import logging
import math
import multiprocessing
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from transformers import TrainerCallback

from orpo.runs.writing import make_way

Tell = Callable[[str, str], None]
"""Is told what kind of thing happened, and a line about it."""


def log_warning(kind: str, message: str) -> None:  # noqa: ARG001 - a `Tell`
    """Say a line through the log."""
    logging.getLogger("orpo.train").warning(message)


HISTORY = 20
_FEWEST = 5  # earlier losses without which there is no verdict
_WINDOW = 5  # logs over which a margin is smoothed


@dataclass(frozen=True)
class Turn:
    """A figure that is far from what it was before."""

    name: str
    before: float
    now: float


def loss_spike(losses: Sequence[float]) -> Turn | None:
    """Whether the last of some losses stands out above those before it.

    It must lie above their median by many times their spread (the median absolute deviation, which
    one earlier spike does not widen; the fewer values, the less it is trusted), by 30 % and by 0.1.
    """
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not losses or not math.isfinite(losses[-1]) or len(finite) <= _FEWEST:
        return None
    earlier, now = finite[:-1], finite[-1]
    middle = median(earlier)
    spread = 1.4826 * median(abs(loss - middle) for loss in earlier)
    rise = max(7 * (1 + 5 / len(earlier)) * spread, 0.3 * abs(middle), 0.1)
    return Turn("loss", middle, now) if now - middle > rise else None


def margin_collapse(margins: Sequence[float], accuracies: Sequence[float]) -> Turn | None:
    """Whether the preference for the chosen answers was clear and is gone.

    Compares the mean of the last five values with the mean of those before: a margin that was
    positive beyond doubt and is at most a tenth of that, or an accuracy of 0.6 or more that is
    below 0.5; either by more than noise explains.
    """
    for name, values in (("rewards/margins", margins), ("rewards/accuracies", accuracies)):
        earlier, recent = values[:-_WINDOW], values[-_WINDOW:]
        if len(earlier) < 2 * _WINDOW or not all(map(math.isfinite, values)):
            continue
        before, now = sum(earlier) / len(earlier), sum(recent) / _WINDOW
        # From neighbours' differences: a slow fall is not taken for noise.
        jumps = [(b - a) ** 2 for a, b in pairwise(earlier)]
        noise = math.sqrt(sum(jumps) / len(jumps) / 2)
        if name == "rewards/margins":
            gone = before > 4 * noise / math.sqrt(len(earlier)) and now <= 0.1 * before
        else:
            gone = before >= 0.6 and now < 0.5
        if gone and before - now > 6 * noise / math.sqrt(_WINDOW):
            return Turn(name, before, now)
    return None


class CurveGuard(TrainerCallback):
    """Warns of a loss spike and of a margin collapse, each at most once in twenty logs."""

    def __init__(self, tell: Tell = log_warning) -> None:
        self._tell = tell
        self._start()

    def _start(self) -> None:
        self._losses: deque[float] = deque(maxlen=HISTORY + 1)
        self._margins: deque[float] = deque(maxlen=2 * HISTORY)
        self._accuracies: deque[float] = deque(maxlen=2 * HISTORY)
        self._logs = 0
        self._said: dict[str, int] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start afresh, or with what a resumed run has logged, of which all was said."""
        self._start()
        for logs in state.log_history:
            self._verdicts(int(logs.get("step", 0)), logs)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any
    ) -> None:
        """Look at the curves with the newest values."""
        verdicts = self._verdicts(state.global_step, logs or {})
        if state.is_world_process_zero:
            for kind, message in verdicts:
                self._tell(kind, message)

    def _verdicts(self, step: int, logs: Mapping[str, float]) -> list[tuple[str, str]]:
        if "loss" not in logs:
            return []
        self._logs += 1
        self._losses.append(float(logs["loss"]))
        margin, accuracy = logs.get("rewards/margins"), logs.get("rewards/accuracies")
        # Both are exactly zero where no pair with two answers was seen.
        if margin is not None and accuracy is not None and (margin or accuracy):
            self._margins.append(float(margin))
            self._accuracies.append(float(accuracy))
        found = []
        spike = loss_spike(list(self._losses))
        if spike is not None and self._may_say("loss_spike"):
            rate = logs.get("learning_rate")
            there = "" if rate is None else f"; the learning rate there is {rate:.2g}"
            words = (
                f"the loss rose from about {spike.before:.3g} to {spike.now:.3g} at step {step}"
                f"{there}. If it does not come down again, go back to an earlier checkpoint with a "
                "lower learning_rate or max_grad_norm."
            )
            found.append(("loss_spike", words))
        fall = margin_collapse(list(self._margins), list(self._accuracies))
        if fall is not None and self._may_say("margin_collapse"):
            words = (
                f"{fall.name} fell from about {fall.before:.2g} to {fall.now:.2g} by step {step}: "
                "the model no longer prefers the chosen answers. Lower learning_rate, and look at "
                "the data with `orpo data audit`; an earlier checkpoint may be the better model."
            )
            found.append(("margin_collapse", words))
        return found

    def _may_say(self, kind: str) -> bool:
        last = self._said.get(kind)
        if last is not None and self._logs - last < HISTORY:
            return False
        self._said[kind] = self._logs
        return True


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
        self.apart = 0.0  # seconds of phases within others, for whoever times the others
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
        before, begun = self._phase, time.perf_counter()
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)
            self.apart += time.perf_counter() - begun

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
