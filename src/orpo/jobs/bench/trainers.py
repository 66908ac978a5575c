"""From a spec to the side's real trainer, alike in everything that is not the side's own."""

from __future__ import annotations

import hashlib
from array import array
from importlib import import_module
from typing import Any

import datasets
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback

from orpo.config import ORPOConfig
from orpo.data.types import COLUMNS
from orpo.jobs.bench.spec import SideSpec
from orpo.train.trainer import ORPOTrainer

__all__ = ["build_trainer", "describe", "token_digests"]

_ALPHA = 0.1


def build_trainer(spec: SideSpec, callback: TrainerCallback) -> Any:
    """The trainer of a side, ready for `train()`.

    Raises:
        UserError: Our trainer refuses the model or the rows.
    """
    build = _build_trl if spec.is_trl else _build_ours
    trainer = build(spec, datasets.Dataset.from_list(spec.rows))
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(callback)
    return trainer


def describe(trainer: Any) -> dict[str, Any]:
    """What the side decided for itself."""
    ours = isinstance(trainer, ORPOTrainer)
    return {
        "engine": trainer.engine.name if ours else "padded",
        "notes": list(trainer.notes) if ours else [],
        "gradient_checkpointing": bool(trainer.args.gradient_checkpointing),
        "tokens": token_digests(trainer.train_dataset),
    }


def token_digests(dataset: Any) -> list[str]:
    """A digest of each pair's token ids, prompt + chosen and prompt + rejected."""
    found = []
    for row in dataset:
        if "chosen_input_ids" in row:
            sequences = (row["chosen_input_ids"], row["rejected_input_ids"])
        else:
            prompt, chosen, rejected = (list(row[name]) for name in COLUMNS[:3])
            sequences = (prompt + chosen, prompt + rejected)
        digest = hashlib.sha256()
        for ids in sequences:
            digest.update(array("q", [*ids, -1]).tobytes())
        found.append(digest.hexdigest()[:16])
    return found


def _build_ours(spec: SideSpec, rows: datasets.Dataset) -> Any:
    config = ORPOConfig(
        **_settings(spec),
        orpo_alpha=_ALPHA,
        orpo_beta=1.0,
        engine="padded" if spec.side == "orpo-padded" else "auto",
        model_dtype="bfloat16" if spec.precision == "bf16-pure" else "float32",
        # As by itself in a run that is long enough; the steps that warm up pay for it.
        compile_blocks=spec.precision == "bf16" and not torch.accelerator.is_available(),
    )
    return ORPOTrainer(
        model=spec.model, args=config, train_dataset=rows, peft_config=_adapter(spec)
    )


def _build_trl(spec: SideSpec, rows: datasets.Dataset) -> Any:
    trl: Any = import_module("trl.experimental.orpo")
    tokenizer = AutoTokenizer.from_pretrained(spec.model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    dtype = torch.bfloat16 if spec.precision == "bf16-pure" else torch.float32
    return trl.ORPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(spec.model, dtype=dtype),
        args=trl.ORPOConfig(**_settings(spec), beta=_ALPHA),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=_adapter(spec),
    )


def _settings(spec: SideSpec) -> dict[str, Any]:
    """What both configurations call by the same name; the weights hardly move at this rate."""
    accelerated = torch.accelerator.is_available()
    return {
        "output_dir": spec.folder,
        "max_length": spec.max_length,
        "max_steps": spec.steps,
        "per_device_train_batch_size": spec.batch_size,
        "gradient_checkpointing": spec.gradient_checkpointing,
        "bf16": spec.precision == "bf16",
        "optim": "adamw_torch_fused",
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "use_cpu": not accelerated,
        "dataloader_pin_memory": accelerated,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _adapter(spec: SideSpec) -> Any:
    if not spec.lora:
        return None
    from peft import LoraConfig  # noqa: PLC0415

    return LoraConfig(
        r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
