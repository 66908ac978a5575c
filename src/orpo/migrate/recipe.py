"""A recipe as text: each setting with where it comes from, then what could not be carried over."""

from __future__ import annotations

from typing import Any

import yaml

from orpo.migrate.convert import Conversion
from orpo.migrate.ledger import Setting
from orpo.migrate.shared import no_lines
from orpo.terminal import spelled_out

__all__ = ["recipe_text"]

_GROUPS = {
    "model and data": (
        *("model", "tokenizer", "model_dtype", "model_revision", "model_init_kwargs"),
        *("trust_remote_code", "chat_template_kwargs", "dataset", "eval_dataset", "held_out"),
    ),
    "objective": ("orpo_alpha", "orpo_beta", "nll_scope", "disable_dropout"),
    "lengths": ("max_length", "max_prompt_length", "truncation"),
    "adapter": ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"),
    "optimizer": (
        *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"),
        *("num_train_epochs", "max_steps", "per_device_train_batch_size"),
        *("gradient_accumulation_steps", "optim", "weight_decay", "adam_beta1", "adam_beta2"),
        *("adam_epsilon", "max_grad_norm", "seed", "train_sampling_strategy"),
    ),
}
_WIDE = 44
"""Comments begin there, or after the value."""


def recipe_text(conversion: Conversion) -> str:
    """YAML for `orpo train`."""
    files = ", ".join(no_lines(file) for file in conversion.files)
    lines = [f"# Converted from {files}: settings of {conversion.trainer}."]
    left = {setting.name: setting for setting in conversion.settings}
    for title, names in _GROUPS.items():
        group = [left.pop(name) for name in names if name in left]
        lines += _block(title, group)
    lines += _block("the rest", list(left.values()))
    lost = [
        f"{no_lines(o.key.name)} ({no_lines(o.key.where)}): {no_lines(o.said)}"
        for o in conversion.of_kind("not supported")
    ]
    lost += [f"the files do not say the {n}: put it here, or --{n}" for n in conversion.missing]
    if lost:
        lines += ["", "# Not carried over:", *(f"# - {line}" for line in lost)]
    return "\n".join(lines) + "\n"


def _block(title: str, settings: list[Setting]) -> list[str]:
    if not settings:
        return []
    shown = ((f"{s.name}: {_value(s.value)}", no_lines(s.source)) for s in settings)
    return ["", f"# {title}", *(f"{text:<{_WIDE}}  # {source}" for text, source in shown)]


def _value(value: Any) -> str:
    """On one line, as YAML that reads as the same value, also where it is shown on a terminal."""
    text = _dumped(value, allow_unicode=True)
    if spelled_out(text) != text:
        text = _dumped(value, allow_unicode=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _dumped(value: Any, *, allow_unicode: bool) -> str:
    text: str = yaml.safe_dump(
        value,
        default_flow_style=True,
        width=2**31,
        allow_unicode=allow_unicode,
        sort_keys=False,
    )
    return text
