"""Every setting of a training: what it is, and what is wrong with a value.

Neither torch nor transformers is loaded. Our own settings are a dataclass, those of
`transformers.TrainingArguments` are read from the source of the transformers that is installed.
`orpo.config.ORPOConfig` puts both together and holds them against the same checks; a command line
is held against them before anything is loaded.
"""

import ast
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from functools import cache, reduce
from importlib.util import find_spec
from operator import or_
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast, get_type_hints

from orpo.errors import ConfigError, refuse_first, require_package
from orpo.setting_types import CHOICES, as_columns, as_declared, as_mapping, one_of

_STRENGTHS = {"orpo": {"orpo_alpha": 0.1, "orpo_beta": 1.0}, "sft": {}, "dpo": {"dpo_beta": 0.1}}
"""Settings that belong to one objective, with their defaults."""
_SMALLEST = {
    **dict.fromkeys(("learning_rate", "weight_decay", "max_grad_norm", "num_train_epochs"), 0),
    **dict.fromkeys(("warmup_steps", "logging_steps", "eval_steps", "save_steps"), 0),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), 1),
    **{"gradient_accumulation_steps": 1, "orpo_alpha": 0, "max_length": 2},
    **dict.fromkeys(("max_prompt_length", "max_tokens_per_microbatch"), 1),
    **dict.fromkeys(("max_nonfinite_steps", "neftune_noise_alpha", "stall_timeout", "seed"), 0),
    **{"dataloader_num_workers": 0, "dataloader_prefetch_factor": 1},
}
_JSON = ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs", "lr_scheduler_kwargs")
_JSON_OR_FILE = ("accelerator_config", "fsdp_config", "deepspeed")
_COMPILE = "packed rows change their shape with every micro-batch; set compile_blocks instead"
_MEANINGLESS = {
    **dict.fromkeys(("torch_compile", "torch_compile_backend", "torch_compile_mode"), _COMPILE),
    "label_smoothing_factor": "the objective has no smoothed labels",
    "include_for_metrics": "compute_metrics receives the log-probabilities of each pair",
    "batch_eval_metrics": "metrics are computed over whole data sets",
    "debug": "what is not finite is named by step and rows, see on_nonfinite",
}
_LAMBDA = "is orpo_alpha by TRL's name"
_TWICE = (
    "beta is TRL's name for orpo_alpha and cannot be combined with orpo_alpha or orpo_beta",
    "Use orpo_alpha (strength) and orpo_beta (temperature), or beta alone.",
)
_ENGINE_STEPS = "skip is not possible with DeepSpeed, whose engine takes the step itself"
_TRACKERS = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    **{n: (n,) for n in ("wandb", "trackio", "swanlab", "mlflow", "comet_ml", "clearml")},
    **{n: (n,) for n in ("codecarbon", "dvclive", "neptune", "dagshub")},
}
_OPTIMIZERS = {
    "(.*_)?(8bit|bnb|paged).*": "bitsandbytes",
    "galore": "galore_torch",
    "apollo": "apollo_torch",
    "(ada)?lomo": "lomo_optim",
    "schedule_free": "schedulefree",
    "grokadamw": "grokadamw",
}
_PACKAGES = {
    **{"quantize": "bitsandbytes", "deepspeed": "deepspeed"},
    "use_liger_kernel": "liger_kernel",
}
"""What is needed beside orpo's own dependencies: by loggers, optimizers and other settings."""
ALSO: dict[str, Any] = {"fsdp": bool | list[str], "debug": None}
"""What transformers takes beyond the types that it declares."""


def setting(text: str, default: Any = None) -> Any:
    """A field of a dataclass of settings, with its help."""
    return field(default=default, metadata={"help": text})


SCHEDULE = "Shape of the learning rate schedule."
_ANY = {name: ", ".join(choices) for name, choices in CHOICES.items()}


@dataclass
class OwnSettings:
    """What ORPO needs beside `TrainingArguments`, and defaults that differ from transformers'."""

    learning_rate: float = setting("Maximum learning rate of AdamW.", 8e-6)
    warmup_steps: float = setting("Warm-up steps, or their share of all steps if below 1.", 0.1)
    logging_steps: float | None = setting(
        "Log every so many optimizer steps; by itself so that a run has 30 logs, at most every 10."
    )
    logging_nan_inf_filter: bool = setting("Replace non-finite losses in the log.", False)
    remove_unused_columns: bool = setting("Unused: orpo reads the columns that it needs.", False)

    objective: str = setting(f"What is trained: {_ANY['objective']}.", "orpo")
    orpo_alpha: float | None = setting("Strength of the preference term, lambda. Default 0.1.")
    orpo_beta: float | None = setting("Temperature of the odds ratio. Default 1.0.")
    dpo_beta: float | None = setting("Strength of DPO's KL constraint. Default 0.1.")
    beta: float | None = setting("TRL's name for orpo_alpha.")
    nll_scope: str = setting("Tokens that the NLL counts: sequence or completion.", "sequence")
    max_length: int | None = setting("Tokens of prompt and answer together.", 1024)
    max_prompt_length: int | None = setting("Tokens of the prompt.")
    truncation: str = setting(f"Over-long pairs: {_ANY['truncation']}.", "truncate_answer")
    max_tokens_per_microbatch: int | None = setting(
        "Positions that go through the model at once; saves memory, never changes the result."
    )
    compile_blocks: bool | None = setting(
        "Compile norms and MLPs (torch.compile); by itself on a processor if the run is long."
    )
    disable_dropout: bool = setting("Switch every dropout of the model off.", True)
    engine: str = setting("How pairs go through the model: auto, shared or padded.", "auto")
    on_bad_row: str = setting("Malformed rows: error or drop.", "error")
    data_format: str = setting(f"Columns of the data: {_ANY['data_format']}.", "auto")
    columns: dict[str, str] | str | None = setting(
        "Names of the data's columns: prompt=question,chosen=good,rejected=bad."
    )
    pair_rule: str = setting(f"Pair out of scored answers: {_ANY['pair_rule']}.", "best_worst")
    data_cache: str | None = setting("Folder that keeps tokenised data; off for none.")
    chat_template: str | None = setting("Jinja file that replaces the tokenizer's chat template.")
    chat_template_kwargs: dict[str, Any] | str | None = setting(
        "Extra variables for the chat template, as JSON."
    )
    model_dtype: str = setting(
        f"Weights of a model given by name: {_ANY['model_dtype']}.", "float32"
    )
    quantize: str = setting("Layers of a model given by name: none or 4bit (QLoRA).", "none")
    model_init_kwargs: dict[str, Any] | str | None = setting(
        "Extra arguments of from_pretrained for a model given by name, as JSON."
    )
    model_revision: str | None = setting("Branch, tag or commit of a model given by Hub id.")
    trust_remote_code: bool = setting("Allow a model's own code to run.", False)
    resume_changed: bool = setting(
        "Go on although settings changed that make it another run.", False
    )
    on_nonfinite: str = setting("Loss or gradient that is not finite: stop or skip.", "stop")
    max_nonfinite_steps: int = setting("Steps of a run that on_nonfinite=skip may leave out.", 10)
    stall_timeout: float | None = setting(
        "End a process in which nothing moves for so many seconds; 0 for never.", 1800
    )


# What there is

FIRST: dict[str, dict[str, str]] = {
    "model and data": {
        "model": "Folder or Hub id of the model to start from.",
        "dataset": "Pairs: files, folders or Hub ids.",
        "columns": "prompt=question,chosen=good,rejected=bad",
        "eval_dataset": "Held-out pairs, scored before and after.",
        "held_out": "Or the share of `dataset` to hold out.",
        "output_dir": "Folder to write; default orpo-COMMAND.",
    },
    "the training": {
        "learning_rate": "Maximum; higher for LoRA.",
        "orpo_alpha": "Lambda, of the preference term. Default 0.1.",
        "num_train_epochs": "Passes over the data.",
        "max_steps": "Optimizer steps, in place of epochs.",
        "per_device_train_batch_size": "Pairs at a time on each device.",
        "gradient_accumulation_steps": "Batches of one optimizer step.",
        "warmup_steps": "Warm-up, or its share of steps.",
        "max_length": "Tokens of prompt and answer.",
        "seed": "Of all that is random.",
    },
    "LoRA, memory and speed": {
        "lora_r": "Train an adapter of this rank, such as 16.",
        "lora_target_modules": "Names by comma. Default all-linear.",
        "quantize": "none, or 4bit under an adapter (QLoRA).",
        "bf16": "Compute in bfloat16.",
        "gradient_checkpointing": "Less memory, a quarter slower.",
        "max_tokens_per_microbatch": "Less memory, the same result.",
    },
    "what is scored, kept and shown": {
        "eval_strategy": "Score on the way: no, steps or epoch.",
        "eval_steps": "Every so many steps.",
        "save_steps": "A checkpoint every so many steps.",
        "logging_steps": "A line every so many steps.",
        "report_to": "none, tensorboard, wandb, trackio, swanlab.",
        "resume": "Go on from the newest checkpoint, or this one.",
        "overwrite": "Replace the run that output_dir holds.",
    },
}
"""What people change first, in the groups of `--help`, and what it says of each.

No other list says so; `--help all` has the fields' own words, and the rest of them."""


@dataclass(frozen=True)
class Setting:
    """One setting, as its field declares it."""

    name: str
    type: Any  # resolved; classes that take loading are stood in for
    default: Any = None  # where it is written down as a plain value
    about: Mapping[str, Any] = field(default_factory=dict)  # `help`, and of its flag the rest


def settings_of(kind: type) -> dict[str, Setting]:
    """The fields of a dataclass of settings."""
    hints = get_type_hints(kind)
    return {f.name: Setting(f.name, hints[f.name], f.default, f.metadata) for f in fields(kind)}


@cache
def training_settings() -> dict[str, Setting]:
    """Every field of `ORPOConfig`, without loading it."""
    found = {one.name: one for one in _of_transformers()}
    shape = replace(found["lr_scheduler_type"], default="cosine", about={"help": SCHEDULE})
    return {**found, shape.name: shape, **settings_of(OwnSettings)}


def _of_transformers() -> Iterator[Setting]:
    """The fields of `TrainingArguments` as the source of the installed transformers has them."""
    home = Path(str(getattr(find_spec("transformers"), "origin", ""))).parent
    trees = {
        name: ast.parse((home / f"{name}.py").read_text(encoding="utf-8"))
        for name in ("training_args", "trainer_utils", "debug_utils")
    }
    classes = {n.name: n for t in trees.values() for n in t.body if isinstance(n, ast.ClassDef)}
    for line in classes["TrainingArguments"].body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.value, ast.Call):
            given = {one.arg: one.value for one in line.value.keywords}
            metadata = cast(ast.Dict, given["metadata"])
            pairs = zip(map(_plain, metadata.keys), map(_plain, metadata.values), strict=True)
            about = {str(key): value for key, value in pairs if value is not None}
            name, default = cast(ast.Name, line.target).id, _plain(given.get("default"))
            yield Setting(name, _type(line.annotation, classes), default, about)


def _plain(node: ast.AST | None) -> Any:
    """What an expression says, if it is a plain value."""
    try:
        return None if node is None else ast.literal_eval(cast(ast.expr, node))
    except ValueError:
        return None


def _type(node: ast.expr, classes: Mapping[str, ast.ClassDef]) -> Any:
    """The type that an annotation names."""
    if isinstance(node, ast.BinOp):
        return reduce(or_, (_type(side, classes) for side in (node.left, node.right)))
    if isinstance(node, ast.Subscript):
        if ast.unparse(node.value) == "Literal":
            return Literal[_plain(node.slice)]
        kind, inner = _type(node.value, classes), node.slice
        parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        return kind[tuple(_type(part, classes) for part in parts)]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _type(ast.parse(node.value, mode="eval").body, classes)
    name = ast.unparse(node)
    plain: dict[str, Any] = {kind.__name__: kind for kind in (bool, int, float, str, dict, list)}
    plain |= {"None": type(None), "Any": Any}
    if name in plain:
        return plain[name]
    lines = [n for n in getattr(classes.get(name), "body", ()) if isinstance(n, ast.Assign)]
    values = {cast(ast.Name, line.targets[0]).id: _plain(line.value) for line in lines}
    return Enum(name, values) if values else type(name, (), {})


# What is wrong with a value


def check_given(given: Mapping[str, Any]) -> None:
    """Refuse settings of a training that cannot be meant, before anything is loaded."""
    known = training_settings()
    draft = SimpleNamespace(**{name: one.default for name, one in known.items()} | {**given})
    types = {name: known[name].type for name in given}
    check(draft, types, {name: one.about.get("choices") for name, one in known.items()})
    _check_installed(draft)


def check(settings: Any, types: Mapping[str, Any], described: Mapping[str, Any]) -> None:
    """Hold settings against their types and against each other; put right what is only spelled.

    Args:
        settings: An object with all of them as attributes.
        types: Of those that are looked at.
        described: Name -> the values that there are, or None.

    Raises:
        ConfigError: Names the first setting that is wrong.
    """
    for name, hint in types.items():
        value = getattr(settings, name, None)
        if value is False and name.endswith("_strategy"):
            value = "no"  # which YAML reads as false
        declared = hint | ALSO[name] if name in ALSO else hint
        setattr(settings, name, as_declared(value, declared, name))
    _check_choices(settings, described)
    _resolve_strength(settings)
    _check_limits(settings)
    _check_json(settings)
    _check_packages(settings)


def with_deepspeed(settings: Any) -> bool:
    """Whether DeepSpeed is asked for, by a setting or by what launched this process."""
    launched = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() in ("true", "1")
    return bool(settings.deepspeed) or launched


def unused_strengths(settings: Any) -> list[str]:
    """Settings of other objectives that were given, and have no effect."""
    others = {name for of in _STRENGTHS.values() for name in of} - {*_STRENGTHS[settings.objective]}
    return sorted(name for name in others if getattr(settings, name) is not None)


def _check_choices(settings: Any, described: Mapping[str, Any]) -> None:
    for name, choices in {**described, **CHOICES}.items():
        value = getattr(settings, name, None)
        if choices and value is not None:
            one_of(choices, value, name)
    compiled = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() not in ("", "no")
    given = {name: why for name, why in _MEANINGLESS.items() if getattr(settings, name, None)}
    refuse_first(
        (compiled, "dynamo_backend", f"cannot be used: {_COMPILE}", "Launch without it."),
        *((True, name, f"cannot be used: {why}", "Leave it out.") for name, why in given.items()),
    )


def _resolve_strength(settings: Any) -> None:
    objective, beta = settings.objective, settings.beta
    if beta is not None:
        fix = "Use dpo_beta." if objective == "dpo" else "Leave it out."
        refuse_first(
            (objective != "orpo", "beta", f"{_LAMBDA}, and the objective is {objective}", fix),
            (settings.orpo_alpha is not None or settings.orpo_beta is not None, "beta", *_TWICE),
        )
        settings.orpo_alpha, settings.orpo_beta, settings.beta = beta, 1.0, None
    for name, default in _STRENGTHS[objective].items():
        if getattr(settings, name) is None:
            setattr(settings, name, default)


def _check_limits(settings: Any) -> None:
    for name in ("orpo_beta", "dpo_beta", "adam_epsilon"):
        value = getattr(settings, name)
        if value is not None and value <= 0:
            raise ConfigError(f"must be positive, is {value}", where=name)
    for name, smallest in _SMALLEST.items():
        value = getattr(settings, name)
        if value is not None and value < smallest:
            raise ConfigError(f"must be at least {smallest}, is {value}", where=name)
    steps, longest, of_prompt = settings.max_steps, settings.max_length, settings.max_prompt_length
    none = "is 0: no step would be taken"
    some = "Give a number above 0; `orpo evaluate` measures a model as it is."
    no_epochs = steps < 0 and settings.num_train_epochs == 0
    no_room = longest is not None and of_prompt is not None and of_prompt >= longest
    within = f"{of_prompt} leaves no room for an answer within max_length={longest}"
    skip = settings.on_nonfinite == "skip" and with_deepspeed(settings)
    refuse_first(
        (steps == 0, "max_steps", none, some),
        (no_epochs, "num_train_epochs", none, some),
        (no_room, "max_prompt_length", within, "Make it smaller than max_length."),
        (skip, "on_nonfinite", _ENGINE_STEPS, "Use stop."),
    )


def _check_json(settings: Any) -> None:
    settings.columns = as_columns(settings.columns)
    for name in ("chat_template_kwargs", "model_init_kwargs"):
        setattr(settings, name, as_mapping(getattr(settings, name), name))
    for name in ("chat_template", *_JSON, *_JSON_OR_FILE):
        value = getattr(settings, name, None)
        if not isinstance(value, str):
            continue
        if name in _JSON or (name in _JSON_OR_FILE and value.startswith("{")):
            setattr(settings, name, as_mapping(value, name))
        elif not Path(value).is_file():
            raise ConfigError(f"no such file: {value}", where=name, fix="Give its path.")


def _check_packages(settings: Any) -> None:
    for name, package in _PACKAGES.items():
        if getattr(settings, name) not in (None, False, "none"):
            require_package(package, where=name)


def _check_installed(settings: Any) -> None:
    """Loggers and optimizers that are asked for by name are there, before ranks are started."""
    named = settings.report_to or ()
    for name in [named] if isinstance(named, str) else named:
        if name in _TRACKERS:
            instead = ", or leave it out (report_to: none)."
            require_package(*_TRACKERS[name], where="report_to", fix=instead)
    optim = str(getattr(settings.optim, "value", settings.optim))
    for pattern, package in _OPTIMIZERS.items():
        if re.match(pattern, optim):
            require_package(package, where="optim", fix=", or choose another optimizer.")
