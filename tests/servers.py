"""A real OpenAI-compatible server: `transformers serve` in a process of its own, on a free port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import orpo
from tests import forked

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
    """Start the server, wait until it answers, give its address, and end all its processes.

    It loads the model that a request names; a local folder with a chat template, such as `BASE`.
    It has no list of models without a network.

    Args:
        log: A file for what it says.
    """
    port = free_port()
    program = Path(sys.executable).with_name("transformers")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as said:
        process = subprocess.Popen(
            [forked.python(), str(program), "serve", "--host", "127.0.0.1", "--port", str(port)],
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            wait_for(process, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """Wait until something answers at an address, or the process has ended."""
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError, urllib.error.URLError),
            urllib.request.urlopen(address, timeout=5),
        ):
            return
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
        break
    raise RuntimeError(f"no server: {log.read_text(encoding='utf-8')[-2000:]}")
