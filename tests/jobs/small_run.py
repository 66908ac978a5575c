"""A real run of four steps with everything that a run folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orpo import ORPOConfig
from orpo.jobs import TrainJob, run_training
from tests.train.small import byte_tokenizer, text_rows, tiny_llama


def train(folder: Path, **job: Any) -> Path:
    """Train in `folder`/run; the model and the data lie beside it."""
    model, data = folder / "base", folder / "pairs.jsonl"
    tiny_llama().save_pretrained(model)
    byte_tokenizer().save_pretrained(model)
    data.write_text("".join(json.dumps(row) + "\n" for row in text_rows(16)), encoding="utf-8")
    config = ORPOConfig(
        output_dir=str(folder / "run"),
        use_cpu=True,
        report_to="none",
        max_steps=4,
        save_steps=2,
        logging_steps=1,
        per_device_train_batch_size=4,
        max_length=128,
    )
    told: dict[str, Any] = {"held_out": 0.2, "samples": 1, "sample_tokens": 4, **job}
    run_training(
        TrainJob(model=str(model), dataset=[str(data)], **told), config, say=lambda line: None
    )
    return folder / "run"


def flip(path: Path) -> None:
    """One bit of the byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
