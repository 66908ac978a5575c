"""The processes of a comparison: what each is told and leaves behind, and how they are run.

Each is in a process of its own, so that its time and memory are too; none outlives the parent.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo.errors import ConfigError, DataError, RunStopped, TrainingError
from orpo.experiments.comparison import Outcome
from orpo.runs.files import read_jsonl, write_json, write_jsonl
from orpo.runs.processes import Supervisor, death_of, supervised
from orpo.runs.reading import read_object
from orpo.runs.typed import plain, typed
from orpo.runs.writing import make_way

if TYPE_CHECKING:
    from orpo.data.types import Row
    from orpo.evaluate import Grade

COST, OUTCOMES = "cost.json", "outcomes.jsonl"
_SPEC, _LOG = "task.json", "log.txt"
REFUSED = 2
"""Exit code of a worker whose input was wrong."""
_TAIL = 3

Grader = Callable[["Row", str], "Grade"]
"""Checks an answer to the prompt of a held-out row."""
Found = tuple[dict[str, Any], list[Outcome]]
"""What a task left behind: its facts, and what its model made of the held-out pairs."""


def load_checker(name: str) -> Grader:
    """The function that `module:function` names.

    Raises:
        ConfigError: There is none.
    """
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` has it, and the `orpo` script has not
        sys.path.append(here)
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"cannot be loaded ({error})",
            where=f"--checker {name}",
            fix="Give MODULE:FUNCTION, importable from here; it takes a row and an answer.",
        ) from error
    if not callable(found):
        raise ConfigError("is no function", where=f"--checker {name}", fix="Give MODULE:FUNCTION.")
    checker: Grader = found
    return checker


@dataclass(frozen=True)
class HeldOut:
    """How a model is put to the test: pairs, prompts to answer, and MODULE:FUNCTION to check."""

    dataset: str
    answers: int
    answer_tokens: int
    checker: str = ""


@dataclass(frozen=True)
class CellSpec:
    """A short run of the grid, by what differs from its task."""

    name: str  # of its result's file
    settings: dict[str, Any]
    dataset: str
    start: str = ""  # an earlier cell of the task whose model it starts from; empty for the base


@dataclass(frozen=True)
class TaskSpec:
    """What one process is told."""

    kind: str  # "stage": train, and measure what is held out; "base": measure; "grid": short runs
    folder: str  # what it writes; for a stage also its run folder
    job: dict[str, Any]  # fields of TrainJob
    settings: dict[str, Any]  # fields of ORPOConfig
    held_out: HeldOut | None = None  # the test; None for a stage that another follows
    cells: list[CellSpec] = field(default_factory=list)

    def finish(self, facts: Mapping[str, Any], outcomes: Sequence[Outcome]) -> None:
        """Put it on record: the outcomes, and then what it cost beside what it was told."""
        write_jsonl(Path(self.folder) / OUTCOMES, plain(outcomes))
        write_json(Path(self.folder) / COST, {"spec": plain(self), "found": facts})

    def finished(self) -> Found | None:
        """What it left behind; None if it was not finished, or was told something else."""
        folder = Path(self.folder)
        try:
            record = read_object(folder / COST)
            if record.get("spec") != plain(self):
                return None
            return record["found"], outcomes_of(read_jsonl(folder / OUTCOMES), folder)
        except (DataError, OSError, KeyError):
            return None


def outcomes_of(lines: Sequence[Any], folder: Path) -> list[Outcome]:
    """Outcomes as they were written."""
    return [typed(Outcome, line, where=str(folder / OUTCOMES)) for line in lines]


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_of_each(at_once: int) -> int:
    """Threads of a run where so many run at a time: they divide the cores, unless told."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() else max(1, cores() // at_once)


def run_chains(
    chains: Sequence[Sequence[TaskSpec]], at_once: int, done: Callable[[int, list[Found]], None]
) -> None:
    """Run so many chains of tasks at a time; within a chain one task after the other.

    Tasks that are finished already are not run again. `done` is told in this thread which chain
    has ended, and what its tasks found.

    Raises:
        ConfigError: A task refused its input.
        TrainingError: A process ended before its time.
        RunStopped: A signal arrived.
    """

    def run(chain: Sequence[TaskSpec]) -> list[Found]:
        return [spec.finished() or _run(spec, group, environment) for spec in chain]

    environment = {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(threads_of_each(at_once)),
        **os.environ,
    }
    with ThreadPoolExecutor(at_once) as pool, supervised() as group:
        waiting = {pool.submit(run, chain): number for number, chain in enumerate(chains)}
        try:
            for future in as_completed(waiting):
                done(waiting[future], future.result())
        except BaseException:
            for future in waiting:
                future.cancel()
            if group.received:
                words = "stopped: the same command goes on with what is finished"
                raise RunStopped(words, group.received[0]) from None
            raise


def _run(spec: TaskSpec, group: Supervisor, environment: Mapping[str, str]) -> Found:
    folder = Path(spec.folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _SPEC, plain(spec))
    make_way(folder / _LOG)
    command = [sys.executable, "-m", "orpo.commands.compare_worker", str(folder / _SPEC)]
    if group.received:
        raise ChildProcessError(f"{folder} was not begun")
    child = group.start(command, environment=environment, log=folder / _LOG, stdout=subprocess.PIPE)
    assert child.process.stdout is not None
    said = child.process.stdout.read().decode("utf-8", "replace")
    code, found = child.process.wait(), spec.finished()
    if code == 0 and found is not None:
        return found
    if code == REFUSED and said.strip():
        raise ConfigError(said.strip().removesuffix("."), where=folder.name)
    tail = " | ".join([line.strip() for line in child.lines()][-_TAIL:]) or "said nothing"
    raise TrainingError(f"{folder} stopped with {death_of(code)}: {tail}; see {folder / _LOG}")
