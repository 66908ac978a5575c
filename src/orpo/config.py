"""Every setting of a run: `transformers.TrainingArguments` plus what ORPO needs."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self, get_type_hints

import torch
from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import SchedulerType

from orpo.errors import ConfigError
from orpo.setting_types import CHOICES, as_declared, as_mapping

_STRENGTHS = {"orpo": {"orpo_alpha": 0.1, "orpo_beta": 1.0}, "sft": {}, "dpo": {"dpo_beta": 0.1}}
"""Settings that belong to one objective, with their defaults."""
_SMALLEST = {
    "learning_rate": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "num_train_epochs": 0,
    "warmup_steps": 0,
    "logging_steps": 0,
    "eval_steps": 0,
    "save_steps": 0,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "orpo_alpha": 0,
    "max_length": 2,
    "max_prompt_length": 1,
    "max_tokens_per_microbatch": 1,
    "max_nonfinite_steps": 0,
    "neftune_noise_alpha": 0,
    "stall_timeout": 0,
    "seed": 0,
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": 1,
}
_JSON = ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs", "lr_scheduler_kwargs")
_JSON_OR_FILE = ("accelerator_config", "fsdp_config", "deepspeed")
_ALSO: dict[str, Any] = {
    **{"fsdp": bool | list[str], "accelerator_config": AcceleratorConfig, "debug": None},
}
"""What transformers takes beyond the types that it declares."""
_REFUSALS = (
    *(ValueError, OSError, ImportError, TypeError, LookupError, AttributeError, RuntimeError),
    ArithmeticError,
)
"""What transformers raises over settings that it cannot use."""
_SECRETS = ("token", "use_auth_token", "hf_token")
_COMPILE = "packed rows change their shape with every micro-batch; set compile_blocks instead"
_OF_THE_TRAINER = {
    **{"model": "model", "dataset": "train_dataset", "eval_dataset": "eval_dataset"},
    **{name: name for name in ("train_dataset", "tokenizer", "processing_class", "peft_config")},
    **{name: name for name in ("callbacks", "compute_metrics", "model_init", "optimizers")},
    **{f"lora_{name}": "peft_config" for name in ("r", "alpha", "dropout", "target_modules")},
}
"""What is no setting but an argument of ORPOTrainer."""
_MEANINGLESS = {
    "torch_compile": _COMPILE,
    "torch_compile_backend": _COMPILE,
    "torch_compile_mode": _COMPILE,
    "label_smoothing_factor": "the objective has no smoothed labels",
    "include_for_metrics": "compute_metrics receives the log-probabilities of each pair",
    "batch_eval_metrics": "metrics are computed over whole data sets",
    "debug": "what is not finite is named by step and rows, see on_nonfinite",
}


def _any(setting: str) -> str:
    return ", ".join(CHOICES[setting])


def _help(text: str, default: Any = None) -> Any:  # a dataclass field
    return field(default=default, metadata={"help": text})


@dataclass(repr=False)
class ORPOConfig(TrainingArguments):
    """Settings of an ORPO run.

    Every field of `transformers.TrainingArguments` works as documented there; a batch size counts
    pairs. The few that mean nothing for pairs are refused: label_smoothing_factor,
    include_for_metrics, batch_eval_metrics, debug, and sampling by length
    (max_tokens_per_microbatch puts pairs of similar length together). Defaults that differ from
    transformers': learning_rate 8e-6, cosine schedule with 10 % warm-up (the paper's appendix C),
    logging every 10 steps, non-finite losses logged as they are.

    Attributes:
        objective: What is trained: "orpo"; "sft", the NLL of the chosen answers alone, as ORPO with
            alpha 0 would; or "dpo" (arXiv 2305.18290, sigmoid), whose reference is the model as it
            is before the first step.
        orpo_alpha: Strength of the preference term, the paper's lambda. Default 0.1; None and
            without effect under another objective.
        orpo_beta: Temperature of the odds ratio. Default 1.0; as above.
        dpo_beta: Strength of DPO's implicit KL constraint. Default 0.1; None and without effect
            under another objective.
        beta: TRL's name for lambda: `beta=0.2` means `orpo_alpha=0.2, orpo_beta=1.0`. An error
            together with either of them, or under another objective.
        nll_scope: "sequence" (prompt and chosen answer, all but the first token) or "completion"
            (the answer only).
        max_length: Tokens of prompt and answer together; None for no limit.
        max_prompt_length: Tokens of the prompt; None for no limit of its own.
        truncation: How an over-long pair is treated; see `orpo.data.lengths`.
        max_tokens_per_microbatch: Positions that go through the model at once, over which the pairs
            of an optimizer step are dealt out; None for what fits into memory. Never changes the
            result, but for two things that are of a micro-batch by definition: dropout, where it
            is left on, and the auxiliary loss of a mixture of experts, where its configuration
            asks for it.
        compile_blocks: Compile the model's norms and gated MLPs with `torch.compile`; None for
            where that pays: on a processor, in bf16, if the run is long. Numbers change by
            rounding.
        disable_dropout: Switch every dropout of the model off, and whatever else draws random
            numbers in training (routers that jitter, layers that are skipped), so that both answers
            are scored by the same network.
        engine: "auto", "shared" or "padded".
        on_bad_row: "error" stops at a malformed row, "drop" leaves it out and counts it.
        data_format: "auto" recognises the columns; else a name out of `orpo.data.formats`.
        pair_rule: How a pair is chosen from a list of scored answers: "best_worst", "best_second"
            or "best_random".
        data_cache: Folder that keeps tokenised data sets, by what they were made of; None for
            "orpo" in the user's cache folder (or ORPO_CACHE), "off" to keep none.
        chat_template: Path of a Jinja file that replaces the tokenizer's chat template.
        chat_template_kwargs: Extra variables for the chat template, as JSON or dict.
        model_dtype: Dtype of the weights of a model given by path or id.
        quantize: "4bit" keeps the layers of such a model in NF4 with quantised scales
            (bitsandbytes); an adapter is trained on them (QLoRA, arXiv 2305.14314).
        model_revision: Branch, tag or commit of a model and tokenizer given by Hub id.
        model_init_kwargs: Extra arguments of `from_pretrained` for such a model.
        trust_remote_code: Allow a model's own code to run. Off unless asked.
        resume_changed: Go on from a checkpoint although settings changed that make it another run.
        on_nonfinite: What happens when a loss or gradient is not finite: "stop" ends the run
            before the optimizer step, "skip" leaves that step out and goes on.
        max_nonfinite_steps: Steps of a run that "skip" may leave out; one more stops it.
        stall_timeout: Seconds without any progress (a phase that begins, a micro-batch, a batch of
            an evaluation, a step) after which a training process writes its stacks and ends; None
            or 0 for never. A single save, or a callback of your own, must not take longer.

    Raises:
        ConfigError: A value that cannot be meant; the message names the field.
    """

    learning_rate: float = _help("Maximum learning rate of AdamW.", 8e-6)
    lr_scheduler_type: SchedulerType | str = _help("Shape of the learning rate schedule.", "cosine")
    warmup_steps: float = _help("Warm-up steps, or their share of all steps if below 1.", 0.1)
    logging_steps: float = _help("Log every so many optimizer steps.", 10)
    logging_nan_inf_filter: bool = _help("Replace non-finite losses in the log.", False)
    remove_unused_columns: bool = _help("Unused: orpo reads the columns that it needs.", False)

    objective: str = _help(f"What is trained: {_any('objective')}.", "orpo")
    orpo_alpha: float | None = _help("Strength of the preference term, lambda. Default 0.1.")
    orpo_beta: float | None = _help("Temperature of the odds ratio. Default 1.0.")
    dpo_beta: float | None = _help("Strength of DPO's KL constraint. Default 0.1.")
    beta: float | None = _help("TRL's name for orpo_alpha.")
    nll_scope: str = _help("Tokens that the NLL counts: sequence or completion.", "sequence")
    max_length: int | None = _help("Tokens of prompt and answer together.", 1024)
    max_prompt_length: int | None = _help("Tokens of the prompt.")
    truncation: str = _help(f"Over-long pairs: {_any('truncation')}.", "truncate_answer")
    max_tokens_per_microbatch: int | None = _help(
        "Positions that go through the model at once; saves memory, never changes the result."
    )
    compile_blocks: bool | None = _help(
        "Compile norms and MLPs (torch.compile); by itself on a processor if the run is long."
    )
    disable_dropout: bool = _help("Switch every dropout of the model off.", True)
    engine: str = _help("How pairs go through the model: auto, shared or padded.", "auto")
    on_bad_row: str = _help("Malformed rows: error or drop.", "error")
    data_format: str = _help(f"Columns of the data: {_any('data_format')}.", "auto")
    pair_rule: str = _help(f"Pair out of scored answers: {_any('pair_rule')}.", "best_worst")
    data_cache: str | None = _help("Folder that keeps tokenised data; off for none.")
    chat_template: str | None = _help("Jinja file that replaces the tokenizer's chat template.")
    chat_template_kwargs: dict[str, Any] | str | None = _help(
        "Extra variables for the chat template, as JSON."
    )
    model_dtype: str = _help(f"Weights of a model given by name: {_any('model_dtype')}.", "float32")
    quantize: str = _help("Layers of a model given by name: none or 4bit (QLoRA).", "none")
    model_init_kwargs: dict[str, Any] | str | None = _help(
        "Extra arguments of from_pretrained for a model given by name, as JSON."
    )
    model_revision: str | None = _help("Branch, tag or commit of a model given by Hub id.")
    trust_remote_code: bool = _help("Allow a model's own code to run.", False)
    resume_changed: bool = _help("Go on although settings changed that make it another run.", False)
    on_nonfinite: str = _help("Loss or gradient that is not finite: stop or skip.", "stop")
    max_nonfinite_steps: int = _help("Steps of a run that on_nonfinite=skip may leave out.", 10)
    stall_timeout: float | None = _help(
        "End a process in which nothing moves for so many seconds; 0 for never.", 1800
    )

    def __new__(cls, *_args: Any, **given: Any) -> Self:
        """Refuse unknown names ahead of `__init__`, with what is meant by them."""
        names = [f.name for f in fields(cls) if f.init]
        for name, value in given.items():
            if name not in names:
                raise ConfigError("is no setting", where=name, fix=_meant_by(name, names, value))
        new: Self = super().__new__(cls)
        return new

    def __post_init__(self) -> None:
        """Resolve aliases and check every value before anything is loaded."""
        self._check_types()
        self._check_choices()
        self._resolve_strength()
        self._check_limits()
        self._check_skipping()
        self._check_json()
        if self.chat_template is not None:
            _require_file(self.chat_template, "chat_template")
        half = self.bf16 or self.bf16_full_eval
        if (half or self._is_a_rank()) and not torch.accelerator.is_available():
            self.use_cpu = True  # without it transformers looks for a GPU, and ranks for no others
        try:
            super().__post_init__()
        except _REFUSALS as error:
            raise self._refused(error) from error
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # there is nothing to pin for, and torch warns
        if self.accelerator_config is not None and self.accelerator_config.dispatch_batches is None:
            # Batches of different widths cannot be concatenated and dealt out by one process.
            self.accelerator_config.dispatch_batches = False

    def _refused(self, error: Exception) -> ConfigError:
        """What transformers says of a setting, by the setting's name."""
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        given = {f.name for f in fields(self) if f.init and getattr(self, f.name) != f.default}
        words = said.lower().replace("_", "")
        named = [name for name in given if name.replace("_", "") in words]
        return ConfigError(said.rstrip("."), where=max(named, key=len, default=""))

    @property
    def unused_strengths(self) -> list[str]:
        """Settings of other objectives that were given, and have no effect."""
        others = {name for of in _STRENGTHS.values() for name in of} - {*_STRENGTHS[self.objective]}
        return sorted(name for name in others if getattr(self, name) is not None)

    @property
    def format_name(self) -> str:
        """The name of the data's format; empty where it is to be recognised."""
        return "" if self.data_format == "auto" else self.data_format

    @property
    def holds_secrets(self) -> bool:
        """Whether a Hub token is among the settings."""
        given = as_mapping(self.model_init_kwargs, "model_init_kwargs")
        return bool(self.hub_token or any(given.get(name) for name in _SECRETS))

    def without_secrets(self) -> ORPOConfig:
        """A copy that may be written to a file or sent to a logger: it holds no Hub token."""
        public = copy.copy(self)
        public.hub_token = None
        public.model_init_kwargs = {
            key: value
            for key, value in as_mapping(self.model_init_kwargs, "model_init_kwargs").items()
            if key not in _SECRETS
        }
        return public

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, without secrets; `ORPOConfig(**settings)` reads them."""
        settings: dict[str, Any] = super(ORPOConfig, self.without_secrets()).to_dict()
        return {**settings, "hub_token": None}

    def __str__(self) -> str:
        text: str = super(ORPOConfig, self.without_secrets()).__str__()
        return text

    __repr__ = __str__

    def _check_types(self) -> None:
        """Every value is of its field's type, or is what YAML makes of one."""
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name, None)
            if name not in self.__dataclass_fields__:
                continue
            if value is False and name.endswith("_strategy"):
                value = "no"  # which YAML reads as false
            declared = hint | _ALSO[name] if name in _ALSO else hint
            setattr(self, name, as_declared(value, declared, name))

    def _resolve_strength(self) -> None:
        if self.beta is not None:
            if self.objective != "orpo":
                raise ConfigError(
                    f"is orpo_alpha by TRL's name, and the objective is {self.objective}",
                    where="beta",
                    fix="Use dpo_beta." if self.objective == "dpo" else "Leave it out.",
                )
            if self.orpo_alpha is not None or self.orpo_beta is not None:
                raise ConfigError(
                    "beta is TRL's name for orpo_alpha and cannot be combined with "
                    "orpo_alpha or orpo_beta",
                    where="beta",
                    fix="Use orpo_alpha (strength) and orpo_beta (temperature), or beta alone.",
                )
            self.orpo_alpha, self.orpo_beta, self.beta = self.beta, 1.0, None
        for name, default in _STRENGTHS[self.objective].items():
            if getattr(self, name) is None:
                setattr(self, name, default)
        for name in ("orpo_beta", "dpo_beta", "adam_epsilon"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"must be positive, is {value}", where=name)

    def _check_choices(self) -> None:
        described = {f.name: f.metadata.get("choices") for f in fields(self)}
        for name, choices in {**described, **CHOICES}.items():
            value = getattr(self, name, None)
            if choices and value is not None and value not in choices:
                raise ConfigError(f"{value!r} is none of {', '.join(choices)}", where=name)
        if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() not in ("", "no"):
            raise ConfigError(
                f"cannot be used: {_COMPILE}", where="dynamo_backend", fix="Launch without it."
            )
        for name, why in _MEANINGLESS.items():
            if getattr(self, name, None):
                raise ConfigError(f"cannot be used: {why}", where=name, fix="Leave it out.")

    def _check_json(self) -> None:
        self.chat_template_kwargs = as_mapping(self.chat_template_kwargs, "chat_template_kwargs")
        self.model_init_kwargs = as_mapping(self.model_init_kwargs, "model_init_kwargs")
        for name in (*_JSON, *_JSON_OR_FILE):
            value = getattr(self, name, None)
            if not isinstance(value, str):
                continue
            if name in _JSON or value.startswith("{"):
                setattr(self, name, as_mapping(value, name))
            else:
                _require_file(value, name)
        if self.deepspeed and find_spec("deepspeed") is None:
            raise ConfigError("needs the package deepspeed", where="deepspeed", fix="Install it.")

    def _with_deepspeed(self) -> bool:
        launched = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() in ("true", "1")
        return bool(self.deepspeed) or launched

    def _is_a_rank(self) -> bool:
        """One of several; DeepSpeed finds the others by itself."""
        return int(os.environ.get("WORLD_SIZE") or 1) > 1 and not self._with_deepspeed()

    def _check_skipping(self) -> None:
        if self.on_nonfinite == "skip" and self._with_deepspeed():
            raise ConfigError(
                "skip is not possible with DeepSpeed, whose engine takes the step itself",
                where="on_nonfinite",
                fix="Use stop.",
            )

    def _check_limits(self) -> None:
        for name, smallest in _SMALLEST.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise ConfigError(f"must be at least {smallest}, is {value}", where=name)
        if self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs == 0):
            raise ConfigError(
                "is 0: no step would be taken",
                where="max_steps" if self.max_steps == 0 else "num_train_epochs",
                fix="Give a number above 0; `orpo evaluate` measures a model as it is.",
            )
        if (
            self.max_length is not None
            and self.max_prompt_length is not None
            and self.max_prompt_length >= self.max_length
        ):
            raise ConfigError(
                f"{self.max_prompt_length} leaves no room for an answer within "
                f"max_length={self.max_length}",
                where="max_prompt_length",
                fix="Make it smaller than max_length.",
            )


def _meant_by(name: str, names: list[str], value: Any) -> str:
    """What to write in place of a name that is no setting."""
    from orpo.migrate.hints import suggestion  # noqa: PLC0415 - only where it is needed

    argument = _OF_THE_TRAINER.get(name)
    found = suggestion(name, [*names, *_OF_THE_TRAINER], value)
    for own, of_trainer in _OF_THE_TRAINER.items():
        if found == f"Did you mean {own!r}?":
            argument = of_trainer
    return f"Pass it to the trainer: ORPOTrainer({argument}=...)." if argument else found


def _require_file(path: str, name: str) -> None:
    if not Path(path).is_file():
        raise ConfigError(f"no such file: {path}", where=name, fix="Give its path.")
