"""`orpo demo`: the embedded base model learns from the embedded pairs, and is put to the test."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo.demo.checks import check_answer
from orpo.errors import ConfigError
from orpo.runs.claim import holds
from orpo.runs.files import RECIPE, read_recipe
from orpo.terminal import Say

if TYPE_CHECKING:  # the command line names the demo's folders without loading torch
    from transformers import TrainerCallback

    from orpo.data.types import Row
    from orpo.evaluate import Grade
    from orpo.jobs import TrainResult

ASSETS = Path(str(files("orpo.demo"))) / "assets"
"""The base model and its preference data, made by scripts/make_demo_assets.py."""

JOB: dict[str, Any] = {
    "model": str(ASSETS / "base"),
    "dataset": [str(ASSETS / "pairs" / "train.jsonl.gz")],
    "eval_dataset": str(ASSETS / "pairs" / "heldout.jsonl.gz"),
}
TEST: dict[str, Any] = {"samples": 10**6, "sample_tokens": 64}  # every held-out prompt is answered
SETTINGS: dict[str, Any] = {
    "learning_rate": 4e-4,
    "orpo_alpha": 0.5,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "max_length": 256,
    "use_cpu": True,
}
"""What every training on the embedded pairs has in common."""
CHECKER = "orpo.demo.story:grade"


def grade(row: Row, answer: str) -> Grade:
    """Check an answer to a held-out instruction against the instruction's own operands."""
    from orpo.evaluate.questions import Grade  # noqa: PLC0415 - loads torch

    verdict = check_answer(answer, row.values["check"])
    groups = {"language": str(row.values["language"]), "task": str(row.values["task"])}
    return Grade(verdict.correct, verdict.reason, groups)


def run_demo(
    output_dir: str,
    *,
    say: Say,
    callbacks: list[TrainerCallback] | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> TrainResult:
    """Train on the embedded pairs and check greedy answers to all held-out prompts.

    `settings` are fields of `ORPOConfig` that replace the demo's. A demo with the same ones goes
    on where it was stopped, unless it is to be overwritten.
    """
    folder = Path(output_dir)
    before = read_recipe(folder) if (folder / RECIPE).is_file() else {}
    if holds(folder) and not _is_demo(before):
        what, fix = f"holds {holds(folder)} that is no demo", "Give another --output_dir."
        raise ConfigError(what, where=f"--output_dir {folder}", fix=fix)
    from orpo.config import ORPOConfig  # noqa: PLC0415 - loads torch
    from orpo.jobs import TrainJob, run_training  # noqa: PLC0415 - loads torch

    own = {"num_train_epochs": 1, "save_steps": 25, "save_total_limit": 1}
    asked, settings = settings, {**SETTINGS, **own, **settings}
    changed = [n for n, value in settings.items() if before and before.get(n) != value]
    if before and (changed or overwrite):
        named = [name for name in changed if name in asked]
        told = f" with another {' and '.join(named)}" if named else ""
        say(f"{folder} holds a demo{told}: it is replaced")
    resume = None if changed or overwrite else "auto"
    job = TrainJob(**JOB, **TEST, overwrite=bool(before), resume=resume)
    config = ORPOConfig(output_dir=output_dir, **settings)
    return run_training(job, config, say=say, callbacks=callbacks, grade=grade)


def _is_demo(recipe: dict[str, Any]) -> bool:
    """An earlier demo may be replaced; somebody's own run may not."""
    return Path(str(recipe.get("model"))).parts[-3:] == (ASSETS / "base").parts[-3:]
