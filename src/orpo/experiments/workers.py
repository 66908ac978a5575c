"""Programs of their own that a comparison and a bench start: time and memory are theirs alone.

None outlives the one that started it. What each is told lies in its folder, with its stderr.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo.errors import ConfigError
from orpo.runs.files import write_json
from orpo.runs.processes import Child, Supervisor, death_of
from orpo.runs.typed import plain
from orpo.runs.writing import make_way

if TYPE_CHECKING:
    from orpo.data.types import Row
    from orpo.evaluate import Grade

QUIET = {
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
LOG = "log.txt"
_TAIL = 3
_PATIENCE = 30  # seconds that a process may take to end once its pipe is closed

Grader = Callable[["Row", str], "Grade"]
"""Checks an answer to the prompt of a held-out row."""


def load_checker(name: str) -> Grader:
    """The function that `module:function` names."""
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


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start(
    group: Supervisor, module: str, told: Any, folder: Path, environment: Mapping[str, str]
) -> Child:
    """Start a worker: `python -m MODULE FILE`, where the file holds what it is told."""
    folder.mkdir(parents=True, exist_ok=True)
    spec, log = folder / "task.json", folder / LOG
    write_json(spec, plain(told))
    make_way(log)
    command = [sys.executable, "-m", module, str(spec)]
    return group.start(command, environment=environment, log=log, stdout=subprocess.PIPE)


def last_words(child: Child) -> tuple[int, str]:
    """The exit code of a worker that ended, and how, with its last lines."""
    try:
        code = child.process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        child.process.kill()
        code = child.process.wait()
    tail = " | ".join([line.strip() for line in child.lines()][-_TAIL:])
    return code, f"{death_of(code)}: {tail or 'said nothing'}"
