"""Limits of time and memory for a program of strangers that runs in this process.

A chat template comes with a model and may loop for ever, call itself for ever or ask for 10 GB.
Within `limited`, a signal of the processor's clock ends what takes too long, and a limit of the
process's address space ends what takes too much; both cost some microseconds. The clock needs the
main thread and the memory an operating system that can limit it: elsewhere they do not hold.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

__all__ = ["SECONDS", "TooMuch", "limited"]

SECONDS = 5.0
"""Processor time; a conversation of a thousand turns takes some hundredths of a second."""

_ROOM = 512 * 2**20  # bytes beyond what the process has
_AGAIN = 0.5  # seconds until the signal comes again, where something swallowed the first
_active = threading.local()


class TooMuch(BaseException):  # a template engine tries things and goes on after an `Exception`
    """What runs within `limited` took too long."""


@contextmanager
def limited() -> Iterator[None]:
    """Limit what is done within; once, however often it is entered.

    Raises:
        TooMuch: It took more than `SECONDS`.
        MemoryError: It asked for more than there is to be had.
    """
    if getattr(_active, "now", False):
        yield
        return
    _active.now = True
    try:
        with _memory(), _time():
            yield
    finally:
        _active.now = False


@contextmanager
def _time() -> Iterator[None]:
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, _AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise TooMuch


@contextmanager
def _memory() -> Iterator[None]:
    before, mapped = _address_limit(), _address_space()
    bounds = [bound for bound in before or () if bound >= 0]  # below 0 it is none
    if before is None or not mapped or any(mapped + _ROOM > bound for bound in bounds):
        yield
        return
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (mapped + _ROOM, before[1]))
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, before)


def _address_limit() -> tuple[int, int] | None:
    found = None
    if resource is not None:
        found = resource.getrlimit(resource.RLIMIT_AS)
    return found


def _address_space() -> int:
    """Bytes that the process has mapped; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:  # noqa: PTH123 - once a row
            return int(file.read().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0
