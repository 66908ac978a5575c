"""Writes the run folder while training: the recipe and the metrics."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from orpo.run_folder import METRICS, RECIPE, write_yaml

__all__ = ["RunRecorder", "model_facts", "versions"]

_PACKAGES = ("orpo", "torch", "transformers", "accelerate", "datasets", "peft", "tokenizers")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run depends on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


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
    """Keeps recipe.yaml and metrics.jsonl of a run.

    Args:
        facts: Gives the recipe's entries beside the settings, with `_run` among them.
    """

    def __init__(self, facts: Callable[[], dict[str, Any]]) -> None:
        self._facts = facts
        self._before: list[str] = []  # lines logged ahead of the first step

    def write_recipe(self, args: TrainingArguments) -> None:
        """Write every setting as resolved, and what was found out while running; no secrets."""
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        facts = self._facts()
        run = {"versions": versions(), **facts.pop("_run", {})}
        left_out = {"hub_token", *facts}
        settings = {key: value for key, value in args.to_dict().items() if key not in left_out}
        write_yaml(folder / RECIPE, {**facts, **_plain(settings), "_run": _plain(run)})

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Write the recipe; a fresh run starts a fresh metrics file, a resumed one goes on."""
        before, self._before = self._before, []
        if not state.is_world_process_zero:
            return
        self.write_recipe(args)
        path = Path(args.output_dir) / METRICS
        kept = _lines_until(path, state.global_step) if state.global_step else before
        fresh = path.with_suffix(".new")
        fresh.write_text("".join(kept), encoding="utf-8")
        fresh.replace(path)  # at once, so that a kill loses no line

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Append one line, flushed."""
        if not logs or not state.is_world_process_zero:
            return
        values = {"step": state.global_step, **{k: _number(v) for k, v in logs.items()}}
        line = json.dumps(values) + "\n"
        if state.global_step == 0:
            self._before.append(line)
        path = Path(args.output_dir) / METRICS
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Write the recipe again: a stream's rows are counted only as they pass."""
        self._before = []
        if state.is_world_process_zero:
            self.write_recipe(args)


def _lines_until(path: Path, step: int) -> list[str]:
    """The lines but those of steps that a resumed run is about to repeat."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    kept = []
    for line in lines:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):
            continue
    return kept


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
