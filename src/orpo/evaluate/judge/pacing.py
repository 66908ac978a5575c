"""Many requests at once, not too many in a minute, and a pause for all when the server asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import TypeVar

__all__ = ["Pacer", "Stopped", "in_threads"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The others have stopped; this one is not begun."""


class Pacer:
    """Lets requests go, evenly spaced.

    Args:
        per_minute: At most so many; any number if absent.
        clock: Tells the seconds.
        stop: Once it is set, whoever waits is let go with `Stopped`.
    """

    def __init__(
        self,
        per_minute: float | None,
        clock: Callable[[], float] = time.monotonic,
        stop: threading.Event | None = None,
    ) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._clock = clock
        self._next = clock()
        self._lock = threading.Lock()
        self.stop = stop or threading.Event()

    def book(self) -> float:
        """Take the next free moment; how many seconds away it is."""
        with self._lock:
            now = self._clock()
            moment = max(now, self._next)
            self._next = moment + self._gap
            return moment - now

    def pause(self, seconds: float) -> bool:
        """Nobody goes for so many seconds; whether that is a second more than it was."""
        with self._lock:
            until = self._clock() + seconds
            longer = until >= self._next + 1
            self._next = max(self._next, until)
            return longer

    def wait(self, seconds: float = 0.0) -> None:
        """Wait so many seconds, and then for a free moment.

        Raises:
            Stopped: The others have stopped.
        """
        if self.stop.wait(seconds) or self.stop.wait(self.book()):
            raise Stopped


def in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], threads: int, stop: threading.Event
) -> Iterator[tuple[Item, Result | Exception]]:
    """Do some work on each item, several at a time; results as they come.

    After `stop` is set no further item is begun, and what is under way still comes. The threads
    do not keep the process alive: an interrupt ends it at once.
    """
    todo: SimpleQueue[Item] = SimpleQueue()
    done: SimpleQueue[tuple[Item, Result | Exception] | None] = SimpleQueue()
    for item in items:
        todo.put(item)

    def run() -> None:
        while not stop.is_set():
            try:
                item = todo.get_nowait()
            except Empty:
                break
            try:
                done.put((item, work(item)))
            except Exception as error:
                done.put((item, error))
        done.put(None)

    running = min(threads, len(items))
    for _ in range(running):
        threading.Thread(target=run, daemon=True).start()
    try:
        while running:
            result = done.get()
            if result is None:
                running -= 1
            else:
                yield result
    finally:
        stop.set()
