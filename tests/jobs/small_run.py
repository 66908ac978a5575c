"""A real run of four steps with everything that a run folder holds."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from orpo import ORPOConfig
from orpo.jobs import TrainJob, TrainResult, run_training
from tests.train.small import saved_llama, text_rows, write_rows


def train(folder: Path, **told: Any) -> Path:
    """Train in `folder`/run; the model and the data lie beside it."""
    saved_llama(folder / "base")
    write_rows(folder / "pairs.jsonl", text_rows(16))
    run(folder, folder / "run", **told)
    return folder / "run"


def run(
    beside: Path,
    output: Path,
    *,
    say: Callable[[str], None] = lambda line: None,
    callbacks: list[TrainerCallback] | None = None,
    **told: Any,
) -> TrainResult:
    """Train the model and the data of a `train`; fields of the job and settings by their names."""
    of_job = {field.name for field in fields(TrainJob)}
    job: dict[str, Any] = {
        **{"model": str(beside / "base"), "dataset": [str(beside / "pairs.jsonl")]},
        **{"held_out": 0.2, "samples": 1, "sample_tokens": 4},
        **{name: value for name, value in told.items() if name in of_job},
    }
    settings: dict[str, Any] = {
        **{"use_cpu": True, "report_to": "none", "max_length": 128, "max_steps": 4},
        **{"save_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 4},
        **{name: value for name, value in told.items() if name not in of_job},
    }
    config = ORPOConfig(output_dir=str(output), **settings)
    return run_training(TrainJob(**job), config, say=say, callbacks=callbacks)


def flip(path: Path) -> None:
    """One bit of the byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
