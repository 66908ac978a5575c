"""Ctrl-C and SIGTERM while runs go on: the run that is under way ends at once, nothing else does.

Unlike `StopOnSignal` there is no checkpoint to wait for: a short run is taken again.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

__all__ = ["Stop", "Stopped"]


class Stopped(BaseException):  # no `except Exception` on the way may swallow it
    """A signal ended the run that was under way."""


class Stop:
    """Listens within its block; a second signal does what it always did.

    Attributes:
        number: The signal that arrived; 0 if none did.
    """

    def __init__(self) -> None:
        self.number = 0
        self._raising = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        """Listen; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        """Stop listening."""
        self._restore()

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Within the block a signal, also one that came before, raises `Stopped`."""
        self._raising = True
        try:
            if self.number:
                raise Stopped
            yield
        finally:
            self._raising = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()
        if self._raising:
            raise Stopped

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
