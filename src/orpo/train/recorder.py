"""Writes the run folder while training: the recipe, the metrics and what else happened."""

import json
import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers import TrainerCallback, TrainingArguments

from orpo.errors import SaveError
from orpo.runs.files import EVENTS, METRICS, RECIPE, write_yaml
from orpo.runs.reading import read_text
from orpo.runs.writing import append_text, make_way, write_text
from orpo.train.checkpoints import explain_write_error

_LONGEST_LINE = 2**20
_PACKAGES = ("orpo", "torch", "transformers", "accelerate", "datasets", "peft", "tokenizers")


def versions(*more: str) -> dict[str, str]:
    """Versions of Python and of the packages that a run depends on, and of others if installed."""
    found = {"python": platform.python_version()}
    for name in (*_PACKAGES, *more):
        if known := _version(name):
            found[name] = known
    return found


@cache
def _version(package: str) -> str:
    """Of an installed package, as it was when first asked; empty if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def model_facts(model: nn.Module) -> dict[str, Any]:
    """The kind of adapter, if any, and how many parameters there are and are trained."""
    adapters = cast(Any, getattr(model, "peft_config", None)) or {}
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return {
        "adapter": ", ".join(str(a.peft_type.value).lower() for a in adapters.values()),
        "parameters": sum(size for size, _ in sizes),
        "trainable_parameters": sum(size for size, trained in sizes if trained),
    }


class RunRecorder(TrainerCallback):
    """Keeps recipe.yaml, metrics.jsonl and events.jsonl of a run."""

    def __init__(self, facts: Callable[[], dict[str, Any]]) -> None:
        self._facts, self._started_in = facts, str(Path.cwd())
        self._before: list[str] = []  # lines logged ahead of the first step
        self.lines = 0
        self._resumed: list[str] | None = None  # lines up to the checkpoint; None in a fresh run

    def go_on_from(self, checkpoint: Path, args: TrainingArguments, lines: int) -> None:
        """Take the lines of metrics.jsonl that were logged up to a checkpoint."""
        copy = checkpoint / METRICS
        path = copy if copy.is_file() else Path(args.output_dir) / METRICS
        self._resumed = _first_lines(path, lines)

    def copy_metrics(self, args: TrainingArguments, checkpoint: Path) -> None:
        """Give a checkpoint the lines that were logged up to it."""
        lines = _first_lines(Path(args.output_dir) / METRICS, self.lines)
        (checkpoint / METRICS).write_text("".join(lines), encoding="utf-8")

    def recipe(self, args: TrainingArguments) -> dict[str, Any]:
        """Every setting as resolved, and what was found out while running; no secrets."""
        facts = self._facts()
        run = {"versions": versions(), **facts.pop("_run", {})}
        if not args.push_to_hub:  # which sends the recipe as it is
            run["started_in"] = self._started_in
        left_out = {"hub_token", *facts}
        settings = {key: value for key, value in args.to_dict().items() if key not in left_out}
        return {**_plain(facts), **_plain(settings), "_run": _plain(run)}

    def write_recipe(self, args: TrainingArguments, folder: Path | None = None) -> None:
        """Write recipe.yaml to the run folder, or to another."""
        folder = Path(args.output_dir) if folder is None else folder
        folder.mkdir(parents=True, exist_ok=True)
        write_yaml(folder / RECIPE, self.recipe(args))

    def event(
        self, args: TrainingArguments, step: int, kind: str, message: str, **details: Any
    ) -> None:
        """Put on record what happened beside the steps; on the first rank only."""
        if args.process_index != 0:
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entry = {"time": now, "step": step, "kind": kind, "message": message, **_plain(details)}
        _append(Path(args.output_dir) / EVENTS, json.dumps(entry, ensure_ascii=False) + "\n")

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the recipe; a fresh run starts a fresh metrics file, a resumed one goes on."""
        before, self._before = self._before, []
        if not state.is_world_process_zero:
            return
        self.write_recipe(args)
        path = Path(args.output_dir) / METRICS
        kept = before if self._resumed is None else self._resumed
        write_text(path, "".join(kept))  # at once, so that a kill loses no line
        self.lines, self._resumed = len(kept), None

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Append one line, flushed."""
        if not logs or not state.is_world_process_zero:
            return
        values = {"step": state.global_step, **{k: _number(v) for k, v in logs.items()}}
        line = json.dumps(values) + "\n"
        if state.global_step == 0:
            self._before.append(line)
        self.lines += 1
        _append(Path(args.output_dir) / METRICS, line)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the recipe again: a stream's rows are counted only as they pass."""
        self._before = []
        if state.is_world_process_zero:
            self.write_recipe(args)


def _append(path: Path, line: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        make_way(path)
        append_text(path, line, size=_whole_lines(path))  # without what a kill had cut off
    except OSError as error:
        reason = explain_write_error(error, path.parent) or str(error)
        raise SaveError(f"{path} could not be written: {reason}") from error


def _whole_lines(path: Path) -> int:
    """Bytes up to the end of the last line that is whole."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LONGEST_LINE))
        tail = file.read()
    return size - (len(tail) - (tail.rfind(b"\n") + 1))


def _first_lines(path: Path, count: int) -> list[str]:
    """The lines up to a checkpoint; a resumed run is about to write the others again."""
    text = read_text(path) if path.is_file() else ""
    return text.splitlines(keepends=True)[:count]


def _number(value: Any) -> Any:
    return float(value) if hasattr(value, "__float__") and not isinstance(value, bool) else value


def _plain(value: Any) -> Any:
    """Only what YAML can say without Python tags."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)
