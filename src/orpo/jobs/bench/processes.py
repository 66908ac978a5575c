"""The worker processes of the sides, seen from the parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from orpo.errors import ConfigError, TrainingError
from orpo.jobs.bench.spec import SideSpec

__all__ = ["Step", "Worker", "take_turns", "workers"]

_QUIET = {
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_TAIL = 3
_PATIENCE = 30  # seconds that a process may take to end once its pipe is closed


@dataclass(frozen=True)
class Step:
    """One step of one side.

    Attributes:
        seconds: Forward, backward and optimizer.
        between: Seconds from there until the trainer was ready for the next step.
        loss: As logged; None if it was not finite.
    """

    seconds: float
    between: float
    loss: float | None


class Worker:
    """One side in its own process.

    Args:
        spec: What it is told; its folder receives what the process writes, stderr included.
    """

    def __init__(self, spec: SideSpec) -> None:
        self.side = spec.side
        folder = Path(spec.folder)
        folder.mkdir(parents=True, exist_ok=True)
        spec.write(folder / "spec.json")
        self._said = folder / "stderr.txt"
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(  # noqa: S603 - this very package
                [sys.executable, "-m", "orpo.jobs.bench.worker", str(folder / "spec.json")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                env=_environment(spec.side),
                text=True,
                encoding="utf-8",
            )

    def receive(self, kind: str) -> Any:
        """The content of the next message, which must be of this kind.

        Raises:
            ConfigError: The side refused its input.
            TrainingError: The process ended instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._obituary()
        message = json.loads(line)
        if "refused" in message:
            raise ConfigError(str(message["refused"]).removesuffix("."), where=self.side)
        return message[kind]

    def step(self) -> Step:
        """Take one step.

        Raises:
            TrainingError: The process ended instead.
        """
        self._go_on()
        return Step(**self.receive("step"))

    def end(self) -> dict[str, Any]:
        """Let it end, after its last step and that of every other side; the memory it took.

        Raises:
            TrainingError: The process ended before.
        """
        self._go_on()
        memory: dict[str, Any] = self.receive("done")
        return memory

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:  # what was still to be written has no reader
                continue

    def _go_on(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._obituary() from error

    def _obituary(self) -> TrainingError:
        try:
            code = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        said = self._said.read_text(encoding="utf-8", errors="replace").splitlines()
        tail = " | ".join([line.strip() for line in said if line.strip()][-_TAIL:])
        return TrainingError(f"the {self.side} side stopped with {why}: {tail or 'said nothing'}")


@contextmanager
def workers(specs: Sequence[SideSpec]) -> Iterator[list[Worker]]:
    """A process for each side; none of them outlives the block."""
    with ExitStack() as stack:
        started = []
        for spec in specs:
            worker = Worker(spec)
            stack.callback(worker.close)
            started.append(worker)
        yield started


def take_turns(sides: Sequence[Worker], rounds: int) -> list[dict[str, Step]]:
    """One step of each side per round, the order swapped every round."""
    taken = []
    for number in range(rounds):
        order = sides if number % 2 == 0 else sides[::-1]
        taken.append({worker.side: worker.step() for worker in order})
    return taken


_WITHOUT_ORPO = {
    "THP_MEM_ALLOC_ENABLE": "0",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024",
    "LRU_CACHE_CAPACITY": "1024",
}
"""What torch and oneDNN do by themselves."""


def _environment(side: str) -> dict[str, str]:
    environment = {**_QUIET, **os.environ}
    if side.startswith("trl"):  # what importing orpo sets is not what TRL's users have
        environment |= _WITHOUT_ORPO
    if torch.cuda.device_count() > 1:  # Trainer would split the batch among all of them
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")
        environment["CUDA_VISIBLE_DEVICES"] = visible[0]
    return environment
