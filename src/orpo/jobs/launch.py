"""Several ranks of one command on this machine: started together, ended together.

A rank is a process with the environment that `torchrun` would give it. The launcher passes SIGTERM
and SIGINT on, once for each that arrives; a terminal's Ctrl-C reaches the launcher only, because
the ranks are a process group of their own. Ranks hold the end of a pipe whose other end the
launcher holds: if it is gone, they stop as if they had received SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from orpo.errors import ConfigError

__all__ = [
    "LOST",
    "Outcome",
    "follow_launcher",
    "launch",
    "launched",
    "lost_a_rank",
    "program",
    "rank",
]

LOST = 70
"""Exit code of a rank that ended because another one had; never the cause."""

_MARK = "ORPO_LAUNCHER"
_POLL = 0.05
_TAIL = 20  # lines that are kept of what a rank says
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_STOPS = {code: int(n) for n in _SIGNALS for code in (128 + n, -n)}
"""Exit codes of ranks that a signal has stopped, and which."""
_NETWORK = (
    "closed by peer",
    "reset by peer",
    "gloo/transport",
    "socket closed",
    "ncclremoteerror",
    "ncclinternalerror",
    "communicator was aborted",
)


@dataclass(frozen=True)
class Outcome:
    """How the ranks ended.

    Attributes:
        code: The exit code of the whole: 0, 128 + N after signal N, 2, or 1.
        message: One line about the rank that failed first; empty if it has been said.
        said: The last lines of that rank, unless they are on the terminal already.
    """

    code: int
    message: str = ""
    said: tuple[str, ...] = ()


def rank(environment: Mapping[str, str] = os.environ) -> int:
    """The number of this process among those of its launcher; 0 if there is none."""
    return int(environment.get("RANK") or 0)


def launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is a rank of `launch`."""
    return _MARK in environment


def lost_a_rank(error: BaseException) -> bool:
    """Whether an error says that another rank is gone, as far as its words tell."""
    several = int(os.environ.get("WORLD_SIZE") or 1) > 1
    text = str(error).lower()
    return several and isinstance(error, RuntimeError) and any(w in text for w in _NETWORK)


def follow_launcher() -> None:
    """In a rank: stop with SIGTERM when the launcher is gone."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="launcher", daemon=True).start()


def launch(command: Sequence[str], count: int, patience: float = 10.0) -> Outcome:
    """Run a command as several ranks and wait until all have ended.

    The first rank writes where this process writes; the others are heard only if they fail.

    Args:
        command: The program and its arguments.
        count: Number of ranks.
        patience: Seconds that ranks have to end by themselves once one has failed.

    Raises:
        ConfigError: This process is a rank itself, or there are to be none.
    """
    if count < 1:
        raise ConfigError(f"must be at least 1, is {count}", where="--nproc")
    if "WORLD_SIZE" in os.environ:
        raise ConfigError(
            "another launcher has started this process (WORLD_SIZE is set)",
            where="--nproc",
            fix="Leave --nproc out.",
        )
    ranks: list[_Rank] = []  # filled while signals may already arrive
    with _passed_on(ranks) as received:
        try:
            port = _free_port()
            for number in range(count):
                ranks.append(  # noqa: PERF401 - a signal may arrive between two
                    _Rank(number, _start(command, number, count, port))
                )
            return _wait(ranks, received, patience)
        finally:
            for each in ranks:
                each.close()


@dataclass
class _Rank:
    number: int
    process: subprocess.Popen[bytes]
    said: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL))

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def _listen(self) -> None:
        for line in self.process.stderr or ():
            self.said.append(line.decode("utf-8", "replace").rstrip())

    def lines(self) -> tuple[str, ...]:
        self._reader.join(1.0)
        return tuple(line for line in self.said if line.strip())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        self._reader.join(1.0)
        if self.process.stderr is not None:
            self.process.stderr.close()


def _start(command: Sequence[str], number: int, count: int, port: int) -> subprocess.Popen[bytes]:
    threads = max(1, (os.cpu_count() or 1) // count)
    environment = {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        _MARK: str(os.getpid()),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "RANK": str(number),
        "LOCAL_RANK": str(number),
    }
    first = number == 0
    return subprocess.Popen(  # noqa: S603 - this very program
        list(command),
        env=environment,
        stdin=subprocess.PIPE,
        stdout=None if first else subprocess.DEVNULL,
        stderr=None if first else subprocess.PIPE,
        process_group=0,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _passed_on(ranks: list[_Rank]) -> Iterator[list[int]]:
    """Within it signals go to all ranks; gives the list of those that arrived."""
    received: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        for each in ranks:
            each.process.send_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before: dict[signal.Signals, Any] = {n: signal.signal(n, forward) for n in _SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(ranks: list[_Rank], received: list[int], patience: float) -> Outcome:
    """Until all have ended; those that outlive a failed one for too long are killed.

    Ranks that outlive one that a signal stopped, which did not come through this process, are sent
    the same signal first: they could not agree on it, because the run had not begun.
    """
    ended: dict[int, int] = {}
    deadline = None
    while len(ended) < len(ranks):
        for each in ranks:
            code = each.process.poll()
            if code is not None:
                ended.setdefault(each.number, code)
        stopped = {128 + number for number in received} | {-number for number in received}
        if deadline is None and any(code and code not in stopped for code in ended.values()):
            deadline = time.monotonic() + patience
        if deadline is not None and time.monotonic() > deadline:
            alone = _stopped_alone(ended) if not received else None
            if alone is None:
                break
            received.append(alone)
            for each in ranks:
                each.process.send_signal(alone)
            deadline = time.monotonic() + patience
        time.sleep(_POLL)
    alone = _stopped_alone(ended) if not received else None
    return _outcome(ranks, ended, received if alone is None else [alone])


def _stopped_alone(ended: Mapping[int, int]) -> int | None:
    """The signal that has stopped a rank and so the run; None where a rank failed of itself."""
    numbers = [_STOPS[code] for code in ended.values() if code in _STOPS]
    failed = any(code not in {0, LOST} and code not in _STOPS for code in ended.values())
    return numbers[0] if numbers and not failed else None


def _outcome(ranks: list[_Rank], ended: dict[int, int], received: list[int]) -> Outcome:
    """What the first failure was; `ended` is in the order in which ranks ended by themselves."""
    stopped = {128 + number for number in received}
    failures = {n: code for n, code in ended.items() if code and code not in stopped}
    orderly = [code for code in ended.values() if code in stopped]
    if not failures:
        return Outcome(max(ended.values()))
    if received and orderly and all(code in {LOST, *_STOPS} for code in failures.values()):
        return Outcome(max(orderly))
    if received and all(code in {LOST, -received[0]} for code in failures.values()):
        return Outcome(128 + received[0], "stopped before the run began; nothing was to be saved")
    number = min(failures, key=lambda n: _rank_of_cause(failures[n]))  # the first among equals
    code = failures[number]
    said = ranks[number].lines() if number else ()
    if code < 0:
        return Outcome(1, _killed(number, code), said if code == -signal.SIGABRT else ())
    if code == LOST:
        return Outcome(1, "the ranks lost each other; the network between them failed", said)
    message = f"rank {number} failed with exit code {code}; the other ranks were ended"
    return Outcome(2 if code == 2 else 1, message if number else "", said)


def _rank_of_cause(code: int) -> int:
    """0 for what cannot be a consequence of another rank's end, 2 for what always is."""
    if code == LOST:
        return 2
    return 0 if code < 0 and code != -signal.SIGABRT else 1


def _killed(number: int, code: int) -> str:
    name = signal.Signals(-code).name
    why = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
    return (
        f"rank {number} was killed by {name}{why}; the other ranks were ended. "
        "Go on from the last checkpoint with the same command and --resume."
    )


def program(arguments: Sequence[str]) -> list[str]:
    """`orpo` with these arguments, as another process would run it."""
    return [sys.executable, "-m", "orpo", *arguments]
