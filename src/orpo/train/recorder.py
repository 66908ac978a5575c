"""Writes the run folder while training: recipe, metrics and, at the end, the model card."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from orpo.run_folder import METRICS, RECIPE, Run, read_run, write_yaml

__all__ = ["RunRecorder", "versions", "write_model_card"]

_SETTINGS = (
    "orpo_alpha",
    "orpo_beta",
    "learning_rate",
    "lr_scheduler_type",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "nll_scope",
    "seed",
)
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


class RunRecorder(TrainerCallback):
    """Keeps recipe.yaml and metrics.jsonl of a run.

    Args:
        facts: Gives the recipe's entries beside the settings, with `_run` among them.
    """

    def __init__(self, facts: Callable[[], dict[str, Any]]) -> None:
        self._facts = facts

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Write the recipe; a fresh run starts a fresh metrics file, a resumed one goes on."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        facts = self._facts()
        run = {"versions": versions(), **facts.pop("_run", {})}
        settings = {key: value for key, value in args.to_dict().items() if key not in facts}
        write_yaml(folder / RECIPE, {**facts, **_plain(settings), "_run": _plain(run)})
        _keep_until(folder / METRICS, state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Append one line, flushed."""
        if logs and state.is_world_process_zero:
            line = {"step": state.global_step, **{k: _number(v) for k, v in logs.items()}}
            path = Path(args.output_dir) / METRICS
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def _keep_until(path: Path, step: int) -> None:
    """Drop lines of steps that a resumed run is about to repeat, and all lines of an older run."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() and step else []
    kept = []
    for line in lines:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):
            continue
    path.write_text("".join(kept), encoding="utf-8")


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


def write_model_card(folder: Path) -> None:
    """Write README.md of a run folder from its recipe and its measured numbers."""
    run = read_run(folder)
    head = ["---", "library_name: transformers", "tags:", "- orpo", "- preference-optimization"]
    base = str(run.recipe.get("model") or "")
    if base and not Path(base).exists():
        head.append(f"base_model: {base}")
    head.append("---")
    body = [
        f"# {folder.resolve().name}",
        "",
        f"{f'`{Path(base).name if Path(base).exists() else base}`' if base else 'A language model'}"
        " aligned with [ORPO](https://arxiv.org/abs/2403.07691): one stage of training on "
        "preference pairs, without a reference model.",
        "",
        *_data_lines(run),
        *_setting_lines(run),
        *_result_lines(run),
        "## Versions",
        "",
        ", ".join(f"{k} {v}" for k, v in run.facts.get("versions", {}).items()),
        "",
    ]
    (folder / "README.md").write_text("\n".join([*head, "", *body]), encoding="utf-8")


def _data_lines(run: Run) -> list[str]:
    lines = ["## Data", ""]
    if run.recipe.get("dataset"):
        lines += [f"`{run.recipe['dataset']}`", ""]
    for name, account in run.facts.get("data", {}).items():
        dropped = ", ".join(f"{n} {reason}" for reason, n in account["dropped"].items())
        lines.append(
            f"- {name}: {account['rows_in']} rows, {account['kept']} kept"
            + (f", dropped: {dropped}" if dropped else "")
        )
    return [*lines, ""]


def _setting_lines(run: Run) -> list[str]:
    rows = [f"| {name} | {run.recipe[name]} |" for name in _SETTINGS if name in run.recipe]
    return ["## Settings", "", "| setting | value |", "|---|---|", *rows, ""]


def _result_lines(run: Run) -> list[str]:
    before, after = run.evaluation.get("before", {}), run.evaluation.get("after", {})
    if after:
        names = [name for name in after if isinstance(after[name], int | float)]
        rows = [f"| {n} | {_shown(before.get(n))} | {_shown(after[n])} |" for n in names]
        return [
            "## Results on held-out pairs",
            "",
            "| metric | before | after |",
            "|---|---|---|",
            *rows,
            "",
        ]
    if not run.training:
        return []
    last = run.training[-1]
    rows = [f"| {name} | {_shown(value)} |" for name, value in last.items() if name != "step"]
    return [
        f"## Training metrics at step {last['step']}",
        "",
        "| metric | value |",
        "|---|---|",
        *rows,
        "",
    ]


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "–"
