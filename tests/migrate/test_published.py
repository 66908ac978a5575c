"""The trainers' own examples resolve to the same hyper-parameters.

`published/` holds the keys of TRL's examples/scripts/orpo.py and of YAML for it, of LLaMA-Factory's
examples/train_lora/qwen3_lora_dpo.yaml with pref_loss orpo, of Axolotl's docs/rlhf.qmd and of ms-
swift's examples/train/rlhf/orpo.sh. What they must come to was read off those files and off the
sources of the releases that `tables.yaml` names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from orpo.migrate.convert import convert
from tests.migrate.conftest import PUBLISHED, resolved

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing`:FutureWarning")

SAME = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "weight_decay", "optim"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "seed", "bf16", "fp16"),
    *("gradient_checkpointing", "logging_steps", "max_length", "disable_dropout", "report_to"),
)
LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
EXPECTED: dict[str, dict[str, Any]] = {
    "trl_command.yaml": {
        "model": "gpt2",
        "learning_rate": 8e-5,
        "lr_scheduler_type": "linear",
        "warmup_steps": 150,
        "max_steps": 1000,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "optim": "rmsprop",
        "orpo_alpha": 0.1,
        "max_length": 1024,
        "nll_scope": "sequence",
        "bf16": True,
        "seed": 42,
        "weight_decay": 0.0,
        "report_to": ["wandb"],
        "gradient_checkpointing": True,
        **dict(zip(LORA, (16, 16, 0.05, "q_proj,v_proj"), strict=True)),
    },
    "trl.yaml": {
        "model": "Qwen/Qwen2.5-0.5B",
        "dataset": ["trl-lib/ultrafeedback_binarized"],
        "model_dtype": "float32",
        "learning_rate": 8e-6,
        "lr_scheduler_type": "linear",
        "warmup_steps": 10,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "orpo_alpha": 0.1,
        "max_length": 1024,
        "lora_r": None,
    },
    "llama_factory.yaml": {
        "model": "Qwen/Qwen3-4B-Instruct-2507",
        "model_dtype": "bfloat16",
        "learning_rate": 5e-6,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 8,
        "orpo_alpha": 0.1,
        "nll_scope": "completion",
        "max_length": 2048,
        "truncation": "keep_start",
        "bf16": True,
        "report_to": [],
        "seed": 42,
        "weight_decay": 0.0,
        "gradient_checkpointing": True,
        **dict(zip(LORA, (8, 16, 0.0, "all-linear"), strict=True)),
    },
    "axolotl.yaml": {
        "model": "NousResearch/Meta-Llama-3-8B",
        "dataset": ["argilla/ultrafeedback-binarized-preferences-cleaned"],
        "held_out": 0.05,
        "model_dtype": "bfloat16",
        "learning_rate": 2e-4,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 10,
        "num_train_epochs": 4,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "optim": "adamw_8bit",
        "orpo_alpha": 0.1,
        "nll_scope": "sequence",
        "max_length": 4096,
        "truncation": "drop",
        "bf16": True,
        "tf32": False,
        "eval_steps": 0.0625,
        "save_steps": 0.25,
        "gradient_checkpointing": True,
        **dict(zip(LORA, (32, 16, 0.05, "all-linear"), strict=True)),
    },
    "ms_swift.yaml": {
        "model": "Qwen/Qwen2.5-7B-Instruct",
        "dataset": ["hjh0119/shareAI-Llama3-DPO-zh-en-emoji"],
        "held_out": 0.01,
        "model_dtype": "bfloat16",
        "learning_rate": 1e-4,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 8,
        "weight_decay": 0.1,
        "adam_beta2": 0.95,
        "orpo_alpha": 0.1,
        "nll_scope": "completion",
        "max_length": 2048,
        "truncation": "drop",
        "bf16": True,
        "eval_strategy": "steps",
        "eval_steps": 100,
        "gradient_checkpointing": True,
        **dict(zip(LORA, (8, 32, 0.05, "all-linear"), strict=True)),
    },
}


@pytest.fixture(autouse=True)
def _in_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PUBLISHED)


@pytest.mark.parametrize("name", EXPECTED)
def test_it_resolves_to_the_same_hyper_parameters(name: str, tmp_path: Path) -> None:
    job, config = resolved(convert([name]), tmp_path)
    for setting, value in EXPECTED[name].items():
        found = getattr(job, setting) if hasattr(job, setting) else getattr(config, setting)
        assert getattr(found, "value", found) == value, setting
    assert config.orpo_beta == 1.0
    assert config.disable_dropout


@pytest.mark.parametrize("name", EXPECTED)
def test_every_key_of_the_file_has_an_outcome(name: str) -> None:
    outcomes = convert([name]).outcomes
    found = sorted(outcome.key.name.rpartition(".")[2] for outcome in outcomes)
    assert found == sorted(keys_of(PUBLISHED / name))
    assert len({(o.key.name, o.key.where) for o in outcomes}) == len(outcomes)
    assert all(outcome.said for outcome in outcomes)


def keys_of(path: Path) -> list[str]:
    """The keys of a file, counted in another way than the converter does."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [*(key for rows in values.pop("datasets", []) for key in rows), *values]


def test_what_cannot_be_carried_over_says_what_to_do() -> None:
    said = {
        outcome.key.name: outcome.said
        for name in EXPECTED
        for outcome in convert([name]).of_kind("not supported")
    }
    assert said.keys() == {"dataset", "template", "max_samples", "chat_template", "deepspeed"}
    assert "--chat_template" in said["template"]
    assert "zero2.yaml" in said["deepspeed"]


@pytest.mark.parametrize(
    "given",
    [
        "trl_command.yaml",
        {},
        {"use_peft": True, "gradient_checkpointing": False, "beta": 0.3},
        {"max_length": 77, "disable_dropout": False},
    ],
)
def test_trl_itself_understands_the_same(
    given: str | dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    trl = pytest.importorskip("trl", reason="trl is not installed")
    from transformers import HfArgumentParser
    from trl.experimental.orpo import ORPOConfig

    keys = {"model_name_or_path": "m", "output_dir": "o"}
    keys |= yaml.safe_load(Path(given).read_text("utf-8")) if isinstance(given, str) else given
    command = tmp_path / "trl.yaml"
    command.write_text(yaml.safe_dump(keys), encoding="utf-8")
    words = {k: float(v) if k == "learning_rate" else v for k, v in keys.items()}
    words.pop("no_remove_unused_columns", None)
    theirs, model = HfArgumentParser((ORPOConfig, trl.ModelConfig)).parse_dict(
        {**words, "use_cpu": True}
    )
    job, ours = resolved(convert([str(command)], "trl"), tmp_path)
    for name in SAME:
        assert plain(ours, name) == plain(theirs, name), name
    assert (ours.orpo_alpha, ours.orpo_beta) == (theirs.beta, 1.0)
    if model.use_peft:
        named = {**{n: n for n in LORA[:3]}, "model": "model_name_or_path"}
        assert all(getattr(job, own) == getattr(model, name) for own, name in named.items())
    else:
        assert job.lora_r is None


def plain(settings: Any, name: str) -> Any:
    found = getattr(settings, name)
    return getattr(found, "value", found)
