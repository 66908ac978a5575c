"""What a setting of another trainer, or an older name of one, is called here.

The rules that convert whole files are asked for the one key, so that nothing is said twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from orpo.errors import ConfigError, did_you_mean
from orpo.migrate.axolotl import convert_axolotl
from orpo.migrate.ledger import Key, Ledger
from orpo.migrate.llama_factory import convert_llama_factory
from orpo.migrate.ms_swift import convert_ms_swift
from orpo.migrate.recognise import PEERS
from orpo.migrate.shared import carry_over
from orpo.migrate.trl import convert_trl

__all__ = ["Hint", "hint", "suggestion"]

_PLAIN = {
    **dict.fromkeys(("lr", "rate"), "learning_rate"),
    **dict.fromkeys(("epochs", "epoch", "n_epochs"), "num_train_epochs"),
    **dict.fromkeys(("steps", "num_steps", "train_steps", "max_train_steps"), "max_steps"),
    **dict.fromkeys(
        ("bs", "batch", "train_batch_size", "train_micro_batch_size_per_gpu"),
        "per_device_train_batch_size",
    ),
    **dict.fromkeys(("test_batch_size",), "per_device_eval_batch_size"),
    **dict.fromkeys(
        ("grad_accum", "accumulation_steps", "grad_acc"), "gradient_accumulation_steps"
    ),
    **dict.fromkeys(
        ("data", "datasets", "data_path", "data_files", "dataset_path", "train_data", "train"),
        "dataset",
    ),
    **dict.fromkeys(("train_file", "train_files", "train_path", "training_data"), "dataset"),
    **dict.fromkeys(
        ("eval_data", "eval_file", "validation_file", "val_file", "val_data", "test_data"),
        "eval_dataset",
    ),
    **dict.fromkeys(("validation_split", "test_size", "val_split", "eval_split"), "held_out"),
    **dict.fromkeys(("model_name", "model_path", "model_id", "pretrained", "base"), "model"),
    **dict.fromkeys(("tokenizer_name", "tokenizer_path", "tokenizer_name_or_path"), "tokenizer"),
    **dict.fromkeys(("output", "out", "out_dir", "save_dir", "output_path"), "output_dir"),
    **dict.fromkeys(("lora", "use_lora", "lora_rank", "rank", "r"), "lora_r"),
    **dict.fromkeys(("lora_modules", "target_modules"), "lora_target_modules"),
    **dict.fromkeys(("max_seq_length", "max_seq_len", "seq_len", "max_len"), "max_length"),
    **dict.fromkeys(("lambda", "lam", "alpha", "orpo_lambda", "lambda_orpo"), "orpo_alpha"),
    **dict.fromkeys(("scheduler", "lr_schedule"), "lr_scheduler_type"),
    **dict.fromkeys(("warmup", "num_warmup_steps"), "warmup_steps"),
    **dict.fromkeys(("torch_dtype", "dtype", "precision"), "model_dtype"),
    **dict.fromkeys(("load_in_4bit", "qlora", "quantization_bit"), "quantize"),
    **dict.fromkeys(("logger", "loggers", "log_with"), "report_to"),
    **dict.fromkeys(("grad_clip", "clip_grad", "gradient_clipping"), "max_grad_norm"),
    **dict.fromkeys(("wd",), "weight_decay"),
    **dict.fromkeys(("random_seed",), "seed"),
}
"""Words that no trainer of `PEERS` has, or has for something of another shape."""
_RULES: dict[str, tuple[Callable[[Ledger], None], tuple[tuple[str, str], ...]]] = {
    "trl": (convert_trl, ()),
    "llama-factory": (convert_llama_factory, (("stage", "dpo"), ("pref_loss", "orpo"))),
    "ms-swift": (convert_ms_swift, (("rlhf_type", "orpo"),)),
    "axolotl": (convert_axolotl, (("rl", "orpo"),)),
}
_SAMPLES: tuple[Any, ...] = (0.5, True, "lora")


@dataclass(frozen=True)
class Hint:
    """What becomes of a setting that orpo does not have.

    Attributes:
        settings: What it is called here; may be none.
        instead: What to do where it has no name here.
    """

    settings: tuple[str, ...]
    instead: str = ""


def suggestion(name: str, known: Collection[str], value: Any = None) -> str:
    """What to write in place of an unknown setting; empty where nobody knows.

    Args:
        name: The setting.
        known: Names that may be suggested.
        value: What it was set to, if that is known.
    """
    plain = name.lower().replace("-", "_")
    found = hint(plain, value)
    if plain not in known and found is not None and {*found.settings} <= {*known}:
        if found.settings:
            return f"Did you mean {' and '.join(map(repr, found.settings))}?"
        return found.instead
    return did_you_mean(plain, known, shown="'{}'")


def hint(name: str, value: Any = None) -> Hint | None:
    """What other trainers' rules make of a setting; None if none of them has it."""
    if name in _PLAIN:
        return Hint((_PLAIN[name],))
    for samples in ([] if value is None else [value]), _SAMPLES:
        answers = [a for peer in _RULES for one in samples if (a := _asked(peer, name, one))]
        if answers:
            return min(answers, key=_says_less)
    return None


def _says_less(answer: Hint) -> int:
    return 0 if answer.settings else 2 if answer.instead.startswith(_NEEDLESS) else 1


_NEEDLESS = "Leave it out"


def _asked(peer: str, name: str, value: Any) -> Hint | None:
    """What one trainer's rules say to a value of the setting."""
    rules, marks = _RULES[peer]
    key = Key(name, value, "")
    ledger = Ledger(PEERS[peer], [*(Key(*mark, "") for mark in marks), key])
    try:
        rules(ledger)
        carry_over(ledger)
    except ConfigError:  # such as a file that is not there
        return None
    if ledger.has(name):
        return None
    (outcome,) = [one for one in ledger.outcomes if one.key is key]
    made = [s.name for s in ledger.settings.values() if s.source.startswith(f"{name}, ")]
    if outcome.kind == "converted" and made:
        return Hint(tuple(made))
    said = outcome.said.rstrip(".")
    if outcome.kind == "not needed":
        return Hint((), f"{_NEEDLESS}: {said}.")
    return None if repr(value) in said else Hint((), f"{said[0].upper()}{said[1:]}.")
