"""Several requests at once, not too many in a minute, and a pause for all when a server asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from queue import Empty, SimpleQueue
from typing import TypeAlias, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Say: TypeAlias = Callable[[str], None]
"""Takes one line of prose."""

PATIENCE = 120.0
"""Seconds that a server may ask us to wait; the official client waits no longer, either."""


def silent(line: str) -> None:
    """Says nothing."""


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The others have stopped; this one is not begun."""


class Pacer:
    """Lets requests go, evenly spaced, and makes all wait for a busy server."""

    def __init__(
        self,
        per_minute: float | None = None,
        backoff: float = 1.0,  # seconds to wait where a busy server does not say how long
        say: Say = silent,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gap, self._backoff, self._say = 60.0 / per_minute if per_minute else 0.0, backoff, say
        self._clock, self._next, self._lock = clock, clock(), threading.Lock()
        self.stop = threading.Event()

    def book(self) -> float:
        """Take the next free moment; how many seconds away it is."""
        with self._lock:
            now = self._clock()
            moment = max(now, self._next)
            self._next = moment + self._gap
            return moment - now

    def busy(self, headers: Mapping[str, str]) -> None:
        """A server is busy: nobody goes before it can be asked again."""
        asked = retry_after(headers)
        seconds = self._backoff if asked is None else asked
        if seconds > PATIENCE:
            return
        with self._lock:
            until = self._clock() + seconds
            longer = until >= self._next + 1
            self._next = max(self._next, until)
        if longer:
            self._say(f"the judge's server is busy; waiting {seconds:.0f} s")

    def wait(self) -> None:
        """Wait for a free moment; `Stopped` once the others have stopped."""
        if self.stop.wait(self.book()):
            raise Stopped


def in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], threads: int, stop: threading.Event
) -> Iterator[tuple[Item, Result | Exception]]:
    """Do some work on each item, several at a time; results as they come.

    After `stop` is set no further item is begun, and what is under way still comes: it may have
    been paid for. The threads do not keep the process alive: an interrupt ends it at once.
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


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, which a server gives as a number or as a date."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / scale
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    try:
        until = parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, (until - datetime.now(until.tzinfo)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
