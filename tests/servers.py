"""A real OpenAI-compatible server: what `orpo serve` becomes, in a process of its own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import orpo

BASE = Path(orpo.__file__).parent / "demo" / "assets" / "base"
"""A real chat model of 2 million parameters."""

_START = 120.0  # seconds: it imports torch and transformers first


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def transformers_server(log: Path) -> Iterator[str]:
    """Serve `BASE`, wait until it answers, give the address, and end all processes.

    It has no list of models without a network. `log` is a file for what it says.
    """
    port = free_port()
    where = ["--host", "127.0.0.1", "--port", str(port)]
    serve = ["serve", str(BASE), "--engine", "transformers", *where]
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "orpo", *serve],
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + _START
            while not _answers(f"http://127.0.0.1:{port}/health"):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError(f"no server: {log.read_text(encoding='utf-8')[-2000:]}")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
        return True
    return False
