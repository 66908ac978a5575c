"""`python` and `orpo` for tests: real processes, without the seconds of importing.

    subprocess.run([forked.python(), "-m", "tests.train.jobs", ...])

A server (`server.py`) has imported everything and forks a process for every such command. What is
started is a program of a few lines (`client.py`) that hands over its folder, environment, input and
output, passes signals on, and ends as the process does; if it is killed, so is the process. In
there `sys.executable` is this `python` again. The process is in a group of its own.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

_HERE = Path(__file__).parent
ROOT = _HERE.parents[1]


class Forks:
    """A server, "warm" with everything imported, and the programs that ask it."""

    def __init__(self, *how: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="forked-"))
        for name in ("orpo", "python"):
            client = [sys.executable, "-I", "-S", str(_HERE / "client.py")]
            words = shlex.join([*client, str(self.folder / "socket"), name])
            program = self.folder / name
            program.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
            program.chmod(0o755)
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.forked.server", str(self.folder), *how],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # threads would not survive a fork
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.server.stdout is not None
        assert self.server.stdout.readline() == b"ready\n"


@cache
def _forks() -> Forks:
    return Forks("warm")


def programs() -> Path:
    """The folder of `python` and `orpo`, for PATH; the first call of a session takes seconds."""
    return _forks().folder


def python() -> str:
    """The program to start instead of `sys.executable`."""
    return str(programs() / "python")


def two_ranks(module: str, *arguments: object) -> list[str]:
    """The command that runs a module of the tests as two ranks of torchrun."""
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return [python(), "-m", *launch, "-m", module, *map(str, arguments)]


def close() -> None:
    """End the server, if there is one, and what it has forked."""
    if _forks.cache_info().currsize:
        with _forks().server:  # its stdin ends
            pass
        _forks.cache_clear()
