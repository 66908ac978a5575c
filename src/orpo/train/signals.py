"""SIGTERM and SIGINT: finish the step, or leave at once what can be done again; then stop."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from transformers import TrainerCallback


class StopRequested(BaseException):  # no `except Exception` on the way may swallow it
    """Raised out of work that can be done again, such as an evaluation, when a signal arrives."""


class StopOnSignal(TrainerCallback):
    """Turns the first signal into one checkpoint and a stop; a second one stops at once.

    As a callback it listens while training. As a context manager it listens in the whole block,
    and outside of optimizer steps it raises `StopRequested`.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._whole_block = False
        self._at_once = False
        self._process = os.getpid()
        self._at_the_end: dict[signal.Signals, Any] = {}

    @property
    def number(self) -> int:
        """The signal that arrived; 0 if none did."""
        return 0 if self.received is None else int(self.received)

    def __enter__(self) -> StopOnSignal:
        """Listen until the end of the block."""
        self._whole_block = self._at_once = True
        self._listen()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop listening."""
        self._whole_block = self._at_once = False
        self._undo()
        self.restore()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within the block a signal, also one that came before, raises `StopRequested`."""
        before, self._at_once = self._at_once, True
        try:
            if self.received is not None:
                raise StopRequested(self.received.name)
            yield
        finally:
            self._at_once = before

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Within the block a signal is noted, and raises nothing but in `at_once`."""
        before, self._at_once = self._at_once, False
        try:
            yield
        finally:
            self._at_once = before

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """From now on steps are finished before the run stops."""
        self._at_once = False
        if not self._whole_block:
            self._listen()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """From the first batch on, torch raises wherever it learns that a loader's process ended.

        A signal to the whole group ends those first, in the middle of a step. Without that, the
        step is finished; the loader itself says what is missing when the next batch is asked for.
        """
        if self._previous and threading.current_thread() is threading.main_thread():
            self._until_the_end(signal.SIGCHLD, _nothing)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop listening, or go back to stopping at once."""
        self._at_once = self._whole_block
        self._undo()
        if not self._whole_block:
            self.restore()

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread() or self._previous:
            return
        self._process = os.getpid()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A data loader's process has inherited the handler: Ctrl-C is its parent's business.
            if number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self.received = signal.Signals(number)
        ignored = self._previous.get(self.received) is signal.SIG_IGN  # as in a background job
        self.restore()  # a second signal does what it always did
        if ignored:
            self._until_the_end(self.received, signal.SIG_DFL)
        self._until_the_end(signal.SIGCHLD, _nothing)  # torch would raise in the save
        if self._at_once:
            raise StopRequested(self.received.name)

    def _until_the_end(self, number: signal.Signals, handler: Any) -> None:
        if number not in self._at_the_end:
            self._at_the_end[number] = signal.signal(number, handler)

    def _undo(self) -> None:
        _give_back(self._at_the_end)

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        _give_back(self._previous)


def _give_back(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in [*handlers.items()]:  # a signal may come in between, and clear it
        signal.signal(number, handler)
    handlers.clear()


def _nothing(number: int, frame: FrameType | None) -> None:
    """Take a signal, and go on."""
