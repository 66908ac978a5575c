"""Processes that this one starts and answers for: none outlives it, a signal reaches them all.

`supervised` is for any program; `launch` runs one command as the ranks of one training. A rank is
a process with the environment that `torchrun` would give it. SIGTERM and SIGINT are passed on, once
for each that arrives; a terminal's Ctrl-C reaches this process only, because each of the others is
a process group of its own. They hold the end of a pipe whose other end this process holds: ranks
stop when it is gone as if they had received SIGTERM (`follow_launcher`).
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from orpo.errors import refuse_first

LOST = 70
"""Exit code of a rank that ended because another one had; never the cause."""

_MARK = "ORPO_LAUNCHER"
_POLL = 0.05
_TAIL = 20  # lines that are kept of what a process says
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


def program(arguments: Sequence[str]) -> list[str]:
    """`orpo` with these arguments, as another process would run it."""
    return [sys.executable, "-m", "orpo", *arguments]


@dataclass
class Child:
    """A process that was started, and the last lines of its stderr, unless others hear them."""

    process: subprocess.Popen[bytes]
    log: Path | None = None
    said: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL))

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def _listen(self) -> None:
        for line in self.process.stderr or ():
            self.said.append(line.decode("utf-8", "replace").rstrip())

    def lines(self) -> tuple[str, ...]:
        """What it said last, without empty lines."""
        self._reader.join(1.0)
        if self.log is not None:
            self.said.extend(self.log.read_text("utf-8", "replace").splitlines())
        return tuple(line for line in self.said if line.strip())

    def close(self) -> None:
        """End it, whatever it is doing."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        self._reader.join(1.0)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


@dataclass
class Supervisor:
    """Processes that were started together."""

    children: list[Child] = field(default_factory=list)  # in the order in which they were started
    # the signals that arrived, which all of them were sent
    received: list[int] = field(default_factory=list)
    _closed: bool = False
    _lock: Any = field(default_factory=threading.RLock)

    def start(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        heard: bool = False,
        **how: Any,
    ) -> Child:
        """Start a program; from any thread."""
        with self._lock, contextlib.ExitStack() as files:
            if self._closed:
                raise ChildProcessError(f"{command[-1]} was not begun: the others were ended")
            stderr = None if heard else subprocess.PIPE
            streams: dict[str, Any] = {
                "stdin": subprocess.PIPE,
                "stdout": None if heard else subprocess.DEVNULL,
                "stderr": stderr if log is None else files.enter_context(log.open("wb")),
            }
            process = subprocess.Popen(  # noqa: S603 - this very program
                list(command), env=environment, process_group=0, **{**streams, **how}
            )
            self.children.append(Child(process, log))
            return self.children[-1]

    def send(self, number: int) -> None:
        """Send a signal to all of them."""
        self.received.append(number)
        for child in list(self.children):
            child.process.send_signal(number)

    def close(self) -> None:
        """End what is still running; nothing can be started any more."""
        with self._lock:
            self._closed = True
        for child in self.children:
            child.close()


@contextlib.contextmanager
def supervised() -> Iterator[Supervisor]:
    """Within it what is started gets the signals that arrive here; nothing outlives the block."""
    group = Supervisor()

    def forward(number: int, _frame: FrameType | None) -> None:
        group.send(number)

    main = threading.current_thread() is threading.main_thread()
    before: dict[signal.Signals, Any] = {}
    try:
        if main:
            before = {number: signal.signal(number, forward) for number in _SIGNALS}
        yield group
    finally:
        try:
            group.close()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def death_of(code: int) -> str:
    """How a process ended, in words."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


@dataclass(frozen=True)
class Outcome:
    """How the ranks ended."""

    code: int  # the exit code of the whole: 0, 128 + N after signal N, 2, or 1
    message: str = ""  # one line about the rank that failed first; empty if it has been said
    # the last lines of that rank, unless they are on the terminal already
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


def follow_launcher(
    stop: Callable[[], object] = lambda: os.kill(os.getpid(), signal.SIGTERM),
) -> None:
    """In a process that was started here: stop, a rank by SIGTERM, when the starter is gone."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        stop()

    threading.Thread(target=wait, name="launcher", daemon=True).start()


def ensure_launchable(count: int) -> None:
    """Refuse a number of ranks that cannot be started from here."""
    another = "another launcher has started this process (WORLD_SIZE is set)"
    refuse_first(
        (count < 1, "--nproc", f"must be at least 1, is {count}"),
        ("WORLD_SIZE" in os.environ, "--nproc", another, "Leave --nproc out."),
    )


def launch(command: Sequence[str], count: int, patience: float = 10.0) -> Outcome:
    """Run a command as several ranks and wait until all have ended.

    The first rank writes where this process writes; the others are heard only if they fail.
    """
    ensure_launchable(count)
    with supervised() as ranks:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        for number in range(count):
            ranks.start(command, environment=_environment(number, count, port), heard=number == 0)
        return _wait(ranks, patience)


def _environment(number: int, count: int, port: int) -> dict[str, str]:
    return {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)),
        **os.environ,
        _MARK: str(os.getpid()),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "RANK": str(number),
        "LOCAL_RANK": str(number),
    }


def _wait(ranks: Supervisor, patience: float) -> Outcome:
    """Until all have ended; those that outlive a failed one for too long are killed.

    Ranks that outlive one that a signal stopped, which did not come through this process, are sent
    the same signal first: they could not agree on it, because the run had not begun.
    """
    ended: dict[int, int] = {}
    deadline, received = None, ranks.received
    while len(ended) < len(ranks.children):
        for number, each in enumerate(ranks.children):
            code = each.process.poll()
            if code is not None:
                ended.setdefault(number, code)
        stopped = {128 + number for number in received} | {-number for number in received}
        if deadline is None and any(code and code not in stopped for code in ended.values()):
            deadline = time.monotonic() + patience
        if deadline is not None and time.monotonic() > deadline:
            alone = _stopped_alone(ended) if not received else None
            if alone is None:
                break
            ranks.send(alone)
            deadline = time.monotonic() + patience
        time.sleep(_POLL)
    alone = _stopped_alone(ended) if not received else None
    return _outcome(ranks.children, ended, received if alone is None else [alone])


def _stopped_alone(ended: Mapping[int, int]) -> int | None:
    """The signal that has stopped a rank and so the run; None where a rank failed of itself."""
    numbers = [_STOPS[code] for code in ended.values() if code in _STOPS]
    failed = any(code not in {0, LOST} and code not in _STOPS for code in ended.values())
    return numbers[0] if numbers and not failed else None


def _outcome(ranks: list[Child], ended: dict[int, int], received: list[int]) -> Outcome:
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
        why = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
        killed = f"rank {number} was killed by {death_of(code)}{why}; the other ranks were ended"
        killed += ". Go on from the last checkpoint with the same command and --resume."
        return Outcome(1, killed, said if code == -signal.SIGABRT else ())
    if code == LOST:
        return Outcome(1, "the ranks lost each other; the network between them failed", said)
    message = f"rank {number} failed with exit code {code}; the other ranks were ended"
    return Outcome(2 if code == 2 else 1, message if number else "", said)


def _rank_of_cause(code: int) -> int:
    """0 for what cannot be a consequence of another rank's end, 3 for what always is."""
    if code < 0 and code != -signal.SIGABRT:
        return 0
    return 3 if code == LOST else 2 if code in _STOPS else 1
