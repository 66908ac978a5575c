"""The processes of a comparison, seen from the parent: so many at a time, none outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from orpo.errors import ConfigError, TrainingError
from orpo.jobs.compare.spec import TaskSpec, finished
from orpo.runs import make_way, write_json

__all__ = ["Pool", "cores"]

_REFUSED = 2
_TAIL = 3
_SPEC, _LOG = "task.json", "log.txt"

Found = tuple[dict[str, Any], list[dict[str, Any]]]


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Pool:
    """Runs chains of tasks, several chains at a time; within a chain one after the other.

    Args:
        at_once: Chains at a time; processor cores are divided among them.
    """

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        asked = os.environ.get("OMP_NUM_THREADS", "")
        self.threads = int(asked) if asked.isdigit() else max(1, cores() // at_once)
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(
        self, chains: Sequence[Sequence[TaskSpec]], done: Callable[[int, list[Found]], None]
    ) -> None:
        """Run every chain; tasks that are finished already are not run again.

        Args:
            chains: Tasks.
            done: Told in this thread which chain has ended, and what its tasks found.

        Raises:
            ConfigError: A task refused its input.
            TrainingError: A process ended before its time.
        """
        with ThreadPoolExecutor(self.at_once) as threads:
            waiting = {
                threads.submit(self._chain, chain): number for number, chain in enumerate(chains)
            }
            try:
                for future in as_completed(waiting):
                    done(waiting[future], future.result())
            except BaseException:
                self._stop()
                for future in waiting:
                    future.cancel()
                raise

    def _chain(self, chain: Sequence[TaskSpec]) -> list[Found]:
        return [finished(spec) or self._run(spec) for spec in chain]

    def _run(self, spec: TaskSpec) -> Found:
        folder = Path(spec.folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _SPEC, spec.as_dict())
        make_way(folder / _LOG)
        with (folder / _LOG).open("wb") as log, self._lock:
            if self._stopped:
                raise TrainingError(f"{spec.folder} was not begun: another run had failed")
            process = subprocess.Popen(  # noqa: S603 - this very package
                [sys.executable, "-m", "orpo.jobs.compare.worker", str(folder / _SPEC)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment(),
                text=True,
                encoding="utf-8",
                errors="replace",
            )
            self._running.add(process)
        try:
            assert process.stdout is not None
            said = process.stdout.read()
            code = process.wait()
        finally:
            self._forget(process)
        found = finished(spec)
        if code == 0 and found is not None:
            return found
        if code == _REFUSED and said.strip():
            raise ConfigError(said.strip().removesuffix("."), where=folder.name)
        raise TrainingError(_obituary(folder, code))

    def _stop(self) -> None:
        """End what is running."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()

    def _forget(self, process: subprocess.Popen[str]) -> None:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        with self._lock:
            self._running.discard(process)

    def _environment(self) -> dict[str, str]:
        environment = {
            "TRANSFORMERS_VERBOSITY": "error",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            **os.environ,
        }
        environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        return environment


def _obituary(folder: Path, code: int) -> str:
    why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    said = (folder / _LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    tail = " | ".join([line.strip() for line in said if line.strip()][-_TAIL:])
    return f"{folder} stopped with {why}: {tail or 'said nothing'}; see {folder / _LOG}"
