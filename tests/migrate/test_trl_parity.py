"""TRL's own parser and settings say what the converted ones say."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser

from orpo.migrate import convert
from tests.migrate.conftest import PUBLISHED, resolved

trl = pytest.importorskip("trl", reason="trl is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing`:FutureWarning")

SAME = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "weight_decay", "optim"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "seed", "bf16", "fp16"),
    *("gradient_checkpointing", "logging_steps", "max_length", "disable_dropout", "report_to"),
)
MODEL = {
    "lora_r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "model": "model_name_or_path",
}


@pytest.mark.parametrize(
    "flags",
    [
        (PUBLISHED / "trl_command.sh").read_text(encoding="utf-8").rpartition("orpo.py")[2],
        "--model_name_or_path m --output_dir o",
        "--model_name_or_path m --output_dir o --use_peft --no_gradient_checkpointing --beta 0.3",
        "--model_name_or_path m --output_dir o --fp16 --max_length 77 --no_disable_dropout",
    ],
)
def test_a_command_says_what_trl_understands(
    flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.orpo import ORPOConfig

    plain = flags.replace("\\\n", " ").replace("--bf16 ", "--bf16 true ")  # as of TRL 1
    words = [word for word in shlex.split(plain) if word != "--fp16"]
    command = tmp_path / "train.sh"
    command.write_text(f"python orpo.py {flags.strip()}\n", encoding="utf-8")
    given = HfArgumentParser((ORPOConfig, trl.ModelConfig))
    theirs, model = given.parse_args_into_dataclasses([*words, "--use_cpu"])
    job, ours = resolved(convert([str(command)]), tmp_path)
    for name in SAME:
        if "--fp16" in flags and name in {"bf16", "fp16"}:
            continue  # there is no fp16 on a processor
        assert value(ours, name) == value(theirs, name), name
    assert (ours.orpo_alpha, ours.orpo_beta) == (theirs.beta, 1.0)
    if model.use_peft:
        assert all(getattr(job, own) == getattr(model, name) for own, name in MODEL.items())
    else:
        assert job.lora_r is None


def value(settings: Any, name: str) -> Any:
    found = getattr(settings, name)
    return getattr(found, "value", found)
