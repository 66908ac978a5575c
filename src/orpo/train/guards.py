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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median_high
from typing import Any

from transformers import TrainerCallback

from orpo.runs.curves import (
    HISTORY,
    Series,
    Turn,
    chosen_fell,
    loss_spike,
    loss_tripled,
    margin_collapse,
    shift,
)
from orpo.runs.writing import make_way

Tell = Callable[[str, str], None]
"""Is told what kind of thing happened, and a line about it."""


def log_warning(kind: str, message: str) -> None:  # noqa: ARG001 - a `Tell`
    """Say a line through the log."""
    logging.getLogger("orpo.train").warning(message)


_SAYS = {
    "loss_spike": "the loss rose from about {before:.3g} to {now:.3g} at step {step}{rate}. If it "
    "does not come down again, go back to an earlier checkpoint with a lower learning_rate or "
    "max_grad_norm.",
    "loss_tripled": "the loss began at about {before:.3g} and is {now:.3g} at step {step}, at "
    "least three times that{rate}. The model is being ruined: stop, and start again with a tenth "
    "of the learning_rate.",
    "margin_collapse": "{name} fell from about {before:.2g} to {now:.2g} by step {step}: the model "
    "no longer prefers the chosen answers. Lower learning_rate, and look at the data with `orpo "
    "data audit`; an earlier checkpoint may be the better model.",
    "chosen_falls": "the log-probability per token of the chosen answers fell from {before:.3g} to "
    "{now:.3g} by step {step} while the margin grew: what is preferred becomes improbable as well. "
    "Try a lower orpo_alpha or learning_rate.",
}
"""Sign -> what is said of it, in a line: what is seen, where, what to try."""
_CURVES = ("loss", "log_odds_chosen", "logps/chosen")
_COMPARED = ("rewards/margins", "rewards/accuracies")


class CurveGuard(TrainerCallback):
    """Warns of the signs of trouble in the curves; of each again only once it was long gone."""

    def __init__(self, tell: Tell = log_warning) -> None:
        self._tell = tell
        self._start()

    def _start(self) -> None:
        self._curves: dict[str, dict[float, float]] = {name: {} for name in _CURVES}
        self._recent = {name: deque[float](maxlen=2 * HISTORY) for name in _COMPARED}
        self._pairs: dict[float, float] = {}  # that each logged line covers
        self._logs = 0
        self._seen: dict[str, int] = {}  # sign -> the log at which it was seen last

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start afresh, or with what a resumed run has logged, of which all was said."""
        self._start()
        for logs in state.log_history:
            self._verdicts(args, int(logs.get("step", 0)), logs)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any
    ) -> None:
        """Look at the curves with the newest values."""
        verdicts = self._verdicts(args, state.global_step, logs or {})
        if state.is_world_process_zero:
            for kind, message in verdicts:
                self._tell(kind, message)

    def _verdicts(self, args: Any, step: int, logs: Mapping[str, float]) -> list[tuple[str, str]]:
        if "loss" not in logs:
            return []
        self._logs += 1
        whole = self._take_down(args, step, logs)
        rate = logs.get("learning_rate")
        there = "" if rate is None else f"; the learning rate there is {rate:.2g}"
        return [
            (kind, _SAYS[kind].format(**vars(turn), step=step, rate=there))
            for kind, turn in self._signs(logs, whole).items()
            if turn is not None and self._may_say(kind)
        ]

    def _take_down(self, args: Any, step: int, logs: Mapping[str, float]) -> float:
        """Remember a line; the part of a usual one that it covers."""
        size = args.per_device_train_batch_size * args.gradient_accumulation_steps
        covered = step - next(reversed(self._pairs), 0)
        self._pairs[step] = float(max(covered, 1) * size * args.world_size)
        whole = self._pairs[step] / median_high([*self._pairs.values()][-HISTORY:])
        for name, points in self._curves.items():
            if math.isfinite(value := float(logs.get(name, math.nan))):
                points[step] = value
        margin, accuracy = (logs.get(name) for name in _COMPARED)
        # Both are exactly zero where no pair with two answers was seen.
        if margin is not None and accuracy is not None and (margin or accuracy) and whole > 0.5:
            for name in _COMPARED:
                self._recent[name].append(float(logs[name]))
        return min(1.0, whole)

    def _signs(self, logs: Mapping[str, float], whole: float) -> dict[str, Turn | None]:
        curves = {
            name: Series(name, None, points, pairs=self._pairs)
            for name, points in self._curves.items()
        }
        found: dict[str, Turn | None] = {}
        if math.isfinite(logs["loss"]):
            found["loss_spike"] = loss_spike(curves["loss"].values[-HISTORY - 1 :], whole)
            found["loss_tripled"] = loss_tripled(curves["loss"])
        found["margin_collapse"] = margin_collapse(*map(list, self._recent.values()))
        if self._logs % self._seldom == 0:  # it takes the whole curve
            odds, chosen = (shift(curves[name]) for name in _CURVES[1:])
            fell = "loss_tripled" not in self._seen and chosen_fell(odds, chosen)
            if chosen is not None and fell:  # of a loss that tripled it is a consequence
                found["chosen_falls"] = Turn("logps/chosen", chosen.first, chosen.last)
        return found

    def _may_say(self, kind: str) -> bool:
        last, self._seen[kind] = self._seen.get(kind), self._logs
        return last is None or self._logs - last >= HISTORY + self._seldom - 1

    @property
    def _seldom(self) -> int:
        return 1 + self._logs // 50


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
