"""The model card of a run: README.md, from what the run folder says and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from orpo.run_folder import Run, read_run

__all__ = ["write_model_card"]

_SETTINGS = (
    "objective",
    "orpo_alpha",
    "orpo_beta",
    "dpo_beta",
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
_OWN = {"orpo_alpha": "orpo", "orpo_beta": "orpo", "dpo_beta": "dpo"}
_ALIGNED = {
    "orpo": "aligned with [ORPO](https://arxiv.org/abs/2403.07691): one stage of training on "
    "preference pairs, without a reference model.",
    "sft": "fine-tuned on the chosen answers of preference pairs (SFT).",
    "dpo": "aligned with [DPO](https://arxiv.org/abs/2305.18290) on preference pairs; its "
    "reference is the model that training began with.",
}


def write_model_card(folder: Path, **about: Any) -> None:
    """Write README.md of a run folder from its recipe and its measured numbers.

    Args:
        folder: The run folder.
        about: What transformers' `create_model_card` takes, by name: model_name, tags, language,
            license, finetuned_from, tasks, dataset_tags; the rest says nothing about a run.
    """
    run = read_run(folder)
    base = str(run.recipe.get("model") or "")
    objective = _objective(run)
    local = bool(base) and Path(base).exists()
    header = {
        "library_name": "peft" if run.facts.get("adapter") else "transformers",
        "base_model": about.get("finetuned_from") or ("" if local else base),
        "language": about.get("language"),
        "license": about.get("license"),
        "datasets": about.get("dataset_tags"),
        "pipeline_tag": about.get("tasks"),
        "tags": [objective, "preference-optimization", *_listed(about.get("tags"))],
    }
    entries = {key: value for key, value in header.items() if value}
    lines = [
        "---",
        yaml.safe_dump(entries, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {about.get('model_name') or folder.resolve().name}",
        "",
        f"{f'`{Path(base).name if local else base}`' if base else 'A language model'} "
        f"{_ALIGNED[objective]}",
        "",
        *_data_lines(run),
        *_setting_lines(run),
        *_result_lines(run),
        "## Versions",
        "",
        ", ".join(f"{k} {v}" for k, v in run.facts.get("versions", {}).items()),
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _objective(run: Run) -> str:
    return str(run.recipe.get("objective") or "orpo")


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def _data_lines(run: Run) -> list[str]:
    lines = ["## Data", ""]
    if run.recipe.get("dataset"):
        named = run.recipe["dataset"]
        listed = named if isinstance(named, list) else [named]
        lines += [", ".join(f"`{name}`" for name in listed), ""]
    for name, account in run.facts.get("data", {}).items():
        dropped = ", ".join(f"{n} {reason}" for reason, n in account["dropped"].items())
        lines.append(
            f"- {name}: {account['rows_in']} rows, {account['kept']} kept"
            + (f", dropped: {dropped}" if dropped else "")
        )
    return [*lines, ""]


def _setting_lines(run: Run) -> list[str]:
    own = [name for name in _SETTINGS if _OWN.get(name, _objective(run)) == _objective(run)]
    rows = [f"| {name} | {run.recipe[name]} |" for name in own if name in run.recipe]
    return ["## Settings", "", "| setting | value |", "|---|---|", *rows, ""]


def _result_lines(run: Run) -> list[str]:
    """Held-out pairs before and after; without such, the last numbers that were logged."""
    before, after = run.evaluation.get("before", {}), run.evaluation.get("after", {})
    if after:
        rows = [f"| {n} | {_shown(before.get(n))} | {_shown(after[n])} |" for n in _numbers(after)]
        return _table("Results on held-out pairs", "| metric | before | after |", rows)
    lines = []
    for what, logged in (("Training", run.training), ("Evaluation", run.evaluations)):
        if logged:
            last = logged[-1]
            rows = [f"| {name} | {_shown(last[name])} |" for name in _numbers(last)]
            lines += _table(f"{what} metrics at step {last['step']}", "| metric | value |", rows)
    return lines


def _table(title: str, head: str, rows: list[str]) -> list[str]:
    rule = "|" + "---|" * (head.count("|") - 1)
    return [f"## {title}", "", head, rule, *rows, ""]


def _numbers(line: dict[str, Any]) -> list[str]:
    return [n for n, value in line.items() if isinstance(value, int | float) and n != "step"]


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "–"
