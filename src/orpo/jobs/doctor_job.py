"""What is installed, what device there is, and what a run would choose on it."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoConfig

from orpo.engine import expect_engine
from orpo.errors import ModelError
from orpo.train.models import UNREADABLE
from orpo.train.recorder import versions

__all__ = ["examine", "examine_model"]

_OPTIONAL = {
    "bitsandbytes": "QLoRA",
    "flash-attn": "faster attention on CUDA",
    "deepspeed": "ZeRO",
    "wandb": "logging",
    "tensorboard": "logging",
}


def examine() -> dict[str, Any]:
    """Facts about this machine and its packages."""
    return {
        "versions": versions(),
        "optional": {name: _version(name) for name in _OPTIONAL},
        "device": _device(),
        "memory_gib": {
            "total": _gib(psutil.virtual_memory().total),
            "available": _gib(psutil.virtual_memory().available),
        },
        "disk_free_gib": _gib(shutil.disk_usage(Path.cwd()).free),
        "offline": bool(os.environ.get("HF_HUB_OFFLINE")),
        "would_choose": _choices(),
    }


def examine_model(name: str) -> dict[str, Any]:
    """What a run would do with this model.

    Raises:
        ModelError: Its configuration cannot be read.
    """
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except UNREADABLE as error:
        first = next(iter(str(error).splitlines()), repr(error))
        raise ModelError(f"cannot be read ({first})", where=name) from error
    if getattr(config, "is_encoder_decoder", False):
        return {"model": name, "type": config.model_type, "trainable": "no: encoder-decoder"}
    engine = expect_engine(config)
    return {"model": name, "type": config.model_type, "trainable": "yes", "engine": engine}


def _device() -> dict[str, Any]:
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return {
            "kind": "cuda",
            "count": torch.cuda.device_count(),
            "name": properties.name,
            "memory_gib": _gib(properties.total_memory),
            "bf16": torch.cuda.is_bf16_supported(),
        }
    if torch.backends.mps.is_available():
        return {"kind": "mps"}
    return {
        "kind": "cpu",
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bf16": _cpu_multiplies_bf16(),
    }


def _cpu_multiplies_bf16() -> bool:
    """Whether the processor has matrix instructions for bf16 (Linux tells in /proc/cpuinfo)."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text(encoding="utf-8") if info.is_file() else ""
    return "bf16" in flags


def _choices() -> dict[str, str]:
    device = _device()
    return {
        "device": str(device["kind"]),
        "engine": "shared where the model allows it",
        "precision": "fp32; --bf16 true is fast here" if device.get("bf16") else "fp32",
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gib(size: int) -> float:
    return round(size / 2**30, 1)
