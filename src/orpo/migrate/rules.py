"""The rules by which keys of other trainers become settings: tables of names, and what is more.

Facts are from the sources of the releases that `tables.yaml` names; docs/migrate.md says which
files. All four train every weight that has dropout without it, and have lambda without temperature.
"""

import os
from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from orpo.migrate.ledger import FILL_IN, Ledger, Setting
from orpo.runs.reading import load_yaml, read_text

TABLES: dict[str, Any] = load_yaml(read_text(Path(__file__).with_name("tables.yaml")))
PEERS: dict[str, Any] = {name: table for name, table in TABLES.items() if "called" in table}
"""What `--from` may say -> the table of that trainer."""

TARGETS = "peft's own choice for Llama, Mistral and Qwen; look it up for other models"
KWARGS = "model_init_kwargs: {quantization_config: ...} takes what transformers takes"
_HOLD_OUT = "hold prompts out (held_out: 0.05)"
_DATA_FILES = {".json", ".jsonl", ".ndjson", ".csv", ".parquet", ".gz"}
LORA = {
    "lora_r": "lora_rank",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "lora_target_modules": "lora_target_modules",
}
Known = dict[str, tuple[str, ...]]
"""Settings of transformers -> the values that they may have; none where anything goes."""


@cache
def known_to_transformers() -> Known:
    """The settings of `TrainingArguments`, and the names of optimizers and schedules."""
    from transformers import TrainingArguments  # noqa: PLC0415 - loads torch
    from transformers.trainer_utils import SchedulerType  # noqa: PLC0415
    from transformers.training_args import OptimizerNames  # noqa: PLC0415

    kinds: dict[str, Any] = {"optim": OptimizerNames, "lr_scheduler_type": SchedulerType}
    known: Known = {field.name: () for field in fields(TrainingArguments)}
    return known | {name: tuple(str(one.value) for one in kind) for name, kind in kinds.items()}


def from_table(ledger: Ledger, table: dict[str, Any], *, empty: bool = True) -> None:
    """Settle what a table says is not needed, `empty` or not, or cannot be carried over."""
    for reason, names in table["refused"].items():
        for name in ledger.given(*names):
            ledger.refuse_unless_off(name, reason)
    for reason, names in table["needless"].items():
        for name in names if empty else ledger.given(*names):
            ledger.not_needed(name, reason)


def of_accelerate(ledger: Ledger) -> None:
    """The configuration of `accelerate launch` starts our processes as well."""
    for name in ledger.names:
        if name == "accelerate.mixed_precision" and ledger.get(name) in {"bf16", "fp16"}:
            ledger.converted(name, {str(ledger.get(name)): True})
        elif name.startswith("accelerate."):
            ledger.not_needed(name, "stays there: accelerate launch ... -m orpo train RECIPE")


def carry_over(ledger: Ledger, known: Known) -> None:
    """Take the keys that mean the same here as in `TrainingArguments`, under their old names too.

    `use_cache` and `resume_from_checkpoint` are for one call; secrets are never written.
    """
    table = TABLES["shared"]
    for name in ledger.given(*table["secrets"]):
        ledger.not_supported(name, "a secret is not written down: set HF_TOKEN, or log in")
    from_table(ledger, table, empty=False)
    for name in ledger.names:
        if ledger.get(name) is None:  # empty, or settled along with another
            continue
        if name == "warmup_ratio":
            _warm_up(ledger)
        elif name in table["renamed"]:
            ledger.converted(name, {table["renamed"][name]: ledger.get(name)})
        elif name in known:
            choose(ledger, name, name, known)


def _warm_up(ledger: Ledger) -> None:
    """`warmup_ratio` counts where `warmup_steps` is not above 0, as in transformers."""
    decided = ledger.settings.get("warmup_steps")
    if ledger.get("warmup_steps", 0) or (decided is not None and decided.value):
        ledger.not_needed("warmup_ratio", "warmup_steps is given, which counts")
        return
    ledger.not_needed("warmup_steps", "is 0, so that warmup_ratio counts")
    ledger.converted("warmup_ratio", {"warmup_steps": ledger.get("warmup_ratio")})


def choose(ledger: Ledger, name: str, setting: str, known: Known) -> None:
    """A setting of transformers, such as an optimizer by its name there."""
    value, names = ledger.get(name), known.get(setting)
    if not names or value in names:
        ledger.converted(name, {setting: value})
    else:
        instead = f"transformers has no {value!r}: choose another, --{setting} NAME"
        ledger.not_supported(name, instead)


def adapter(ledger: Ledger, names: dict[str, str], defaults: dict[str, Any], source: str) -> None:
    """Take the keys of LoRA, by setting; what holds for those that are not given."""
    for setting, name in names.items():
        value = ledger.get(name)
        if value is None:
            continue
        if setting == "lora_target_modules":
            parts = listed(value)
            everything = {*parts} & {"all" if name == "lora_target" else "all-linear"}
            value = "all-linear" if everything else ",".join(parts)
        elif setting == "lora_alpha" and isinstance(value, float) and value == int(value):
            value = int(value)
        ledger.converted(name, {setting: value})
    ledger.default(source, defaults)


def no_adapter(ledger: Ledger, names: Iterable[str]) -> None:
    """The whole model is trained: keys of LoRA decide nothing."""
    for name in names:
        ledger.not_needed(name, "no adapter is trained")


def four_bits(
    ledger: Ledger, names: Iterable[str], kind: Any, double: bool, compute: Any = "bfloat16"
) -> None:
    """Keys of quantization become arguments of the model for bitsandbytes."""
    config = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": kind,
        "bnb_4bit_use_double_quant": double,
        "bnb_4bit_compute_dtype": compute,
    }
    for i, name in enumerate([name for name in names if ledger.has(name)]):
        note = "" if i else "needs pip install 'orpo[qlora]'"
        ledger.converted(name, {"model_init_kwargs": {"quantization_config": config}}, note)


def data_sets(ledger: Ledger, name: str, specs: list[str], setting: str, note: str = "") -> None:
    """A key that names data sets which orpo reads as well; held-out pairs are one data set."""
    trained = listed(ledger.settings["dataset"].value) if "dataset" in ledger.settings else []
    if setting == "dataset" or (len(specs) == 1 and not _trained_on(specs[0], trained)):
        ledger.converted(name, {setting: specs[0] if len(specs) == 1 else specs}, note)
    elif len(specs) > 1:
        ledger.not_supported(name, f"eval_dataset is one data set: give one, or {_HOLD_OUT}")
    else:
        fill_in(ledger, name, f"{specs[0]} is trained on as well: name other pairs", setting)


def fill_in(ledger: Ledger, name: str, why: str, setting: str) -> None:
    """A data set that cannot be carried over: the recipe says so, and is refused until it is."""
    why += f", or {_HOLD_OUT}" * (setting == "eval_dataset")
    ledger.settings[setting] = Setting(setting, FILL_IN, why)
    ledger.not_supported(name, why)


def cut_out(spec: str, split: Any) -> str:
    """What is wrong with a split of a data set that is a file or a folder here; empty if nothing.

    Of a file only a slice is a part of it: what is read of it has one split.
    """
    is_file = Path(spec).suffix.lower() in _DATA_FILES
    local = is_file or spec.startswith((".", "/", "~")) or Path(spec).exists()
    if not local or split == "train" or (is_file and "[" not in str(split)):
        return ""
    return f"{split} is a part of {spec}: write its rows to a file and name that"


def _trained_on(spec: str, trained: list[str]) -> bool:
    """Whether a data set is one of the others, or a part of it; two slices are taken for apart."""
    name, splits = _splits(spec)
    for other, theirs in map(_splits, trained):
        shared = splits.keys() & theirs.keys() if name == other else ()
        if any(splits[one] == theirs[one] or "" in (splits[one], theirs[one]) for one in shared):
            return True
    return False


def _splits(spec: str) -> tuple[str, dict[str, str]]:
    """(the name of a data set without its revision, split -> the slice of it or "")."""
    name, _, split = spec.partition(":")
    parts = (part.partition("[") for part in (split or "train").split("+"))
    return os.path.normpath(name.partition("@")[0]), {part[0]: part[2] for part in parts}


def held_out(ledger: Ledger, name: str, nothing: str) -> None:
    """A share of rows that is held out."""
    share = ledger.get(name)
    if isinstance(share, float) and 0 < share < 1:
        ledger.converted(name, {"held_out": share}, "held out by prompt")
    elif share:
        ledger.not_supported(name, "held_out: SHARE, such as 0.05, holds prompts out")
    elif share == 0:
        ledger.not_needed(name, nothing)


def truncation(ledger: Ledger, name: str, ways: dict[str, str]) -> None:
    """How over-long pairs are treated, where there is a way that is the same."""
    value = ledger.get(name)
    if isinstance(value, str) and value.lower() in ways:
        ledger.converted(name, {"truncation": ways[value.lower()]})


def listed(value: Any) -> list[str]:
    """A list, or a text with commas, as a list of texts; none of nothing."""
    parts = value if isinstance(value, list) else str("" if value is None else value).split(",")
    return [str(part).strip() for part in parts if str(part).strip()]
