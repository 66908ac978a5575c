"""Every setting of a run: `transformers.TrainingArguments` plus what ORPO needs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from orpo.errors import ConfigError

__all__ = ["ENGINES", "NLL_SCOPES", "ORPOConfig"]

ENGINES = ("auto", "shared", "padded")
NLL_SCOPES = ("sequence", "completion")
_TRUNCATIONS = ("truncate_answer", "keep_end", "keep_start", "drop", "error")
_BAD_ROWS = ("error", "drop")
_DTYPES = ("float32", "bfloat16", "float16", "auto")


def _help(text: str, default: Any = None) -> Any:  # a dataclass field
    return field(default=default, metadata={"help": text})


@dataclass
class ORPOConfig(TrainingArguments):
    """Settings of an ORPO run.

    Every field of `transformers.TrainingArguments` works as documented there; a batch size counts
    pairs. Defaults that differ from transformers': learning_rate 8e-6, cosine schedule with 10 %
    warm-up (the paper's appendix C), logging every 10 steps, non-finite losses logged as they are.

    Attributes:
        orpo_alpha: Strength of the preference term, the paper's lambda. Default 0.1.
        orpo_beta: Temperature of the odds ratio. Default 1.0.
        beta: TRL's name for lambda: `beta=0.2` means `orpo_alpha=0.2, orpo_beta=1.0`. An error
            together with either of them.
        nll_scope: "sequence" (prompt and chosen answer, all but the first token) or "completion"
            (the answer only).
        max_length: Tokens of prompt and answer together; None for no limit.
        max_prompt_length: Tokens of the prompt; None for no limit of its own.
        truncation: How an over-long pair is treated; see `orpo.data.lengths`.
        max_tokens_per_microbatch: Positions that go through the model at once; None for a whole
            micro-batch. Saves memory and never changes the result.
        disable_dropout: Switch every dropout of the model off, so that both answers are scored by
            the same network.
        engine: "auto", "shared" or "padded".
        on_bad_row: "error" stops at a malformed row, "drop" leaves it out and counts it.
        chat_template: Path of a Jinja file that replaces the tokenizer's chat template.
        chat_template_kwargs: Extra variables for the chat template, as JSON or dict.
        model_dtype: Dtype of the weights of a model given by path or id.
        model_init_kwargs: Extra arguments of `from_pretrained` for such a model.
        trust_remote_code: Allow a model's own code to run. Off unless asked.

    Raises:
        ConfigError: A value that cannot be meant; the message names the field.
    """

    learning_rate: float = _help("Maximum learning rate of AdamW.", 8e-6)
    lr_scheduler_type: str = _help("Shape of the learning rate schedule.", "cosine")
    warmup_steps: float = _help("Warm-up steps, or their share of all steps if below 1.", 0.1)
    logging_steps: float = _help("Log every so many optimizer steps.", 10)
    logging_nan_inf_filter: bool = _help("Replace non-finite losses in the log.", False)
    remove_unused_columns: bool = _help("Unused: orpo reads the columns that it needs.", False)

    orpo_alpha: float | None = _help("Strength of the preference term, lambda. Default 0.1.")
    orpo_beta: float | None = _help("Temperature of the odds ratio. Default 1.0.")
    beta: float | None = _help("TRL's name for orpo_alpha.")
    nll_scope: str = _help("Tokens that the NLL counts: sequence or completion.", "sequence")
    max_length: int | None = _help("Tokens of prompt and answer together.", 1024)
    max_prompt_length: int | None = _help("Tokens of the prompt.")
    truncation: str = _help(f"Over-long pairs: {', '.join(_TRUNCATIONS)}.", "truncate_answer")
    max_tokens_per_microbatch: int | None = _help(
        "Positions that go through the model at once; saves memory, never changes the result."
    )
    disable_dropout: bool = _help("Switch every dropout of the model off.", True)
    engine: str = _help("How pairs go through the model: auto, shared or padded.", "auto")
    on_bad_row: str = _help("Malformed rows: error or drop.", "error")
    chat_template: str | None = _help("Jinja file that replaces the tokenizer's chat template.")
    chat_template_kwargs: dict[str, Any] | str | None = _help(
        "Extra variables for the chat template, as JSON."
    )
    model_dtype: str = _help(f"Weights of a model given by name: {', '.join(_DTYPES)}.", "float32")
    model_init_kwargs: dict[str, Any] | str | None = _help(
        "Extra arguments of from_pretrained for a model given by name, as JSON."
    )
    trust_remote_code: bool = _help("Allow a model's own code to run.", False)

    def __post_init__(self) -> None:
        """Resolve aliases and check every value before anything is loaded."""
        self._resolve_strength()
        self._check_choices()
        self._check_lengths()
        self.chat_template_kwargs = _as_dict(self.chat_template_kwargs, "chat_template_kwargs")
        self.model_init_kwargs = _as_dict(self.model_init_kwargs, "model_init_kwargs")
        if self.chat_template is not None and not Path(self.chat_template).is_file():
            raise ConfigError(
                f"no such file: {self.chat_template}", where="chat_template", fix="Give its path."
            )
        try:
            super().__post_init__()
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # there is nothing to pin for, and torch warns
        if self.accelerator_config is not None and self.accelerator_config.dispatch_batches is None:
            # Batches of different widths cannot be concatenated and dealt out by one process.
            self.accelerator_config.dispatch_batches = False

    def _resolve_strength(self) -> None:
        if self.beta is not None:
            if self.orpo_alpha is not None or self.orpo_beta is not None:
                raise ConfigError(
                    "beta is TRL's name for orpo_alpha and cannot be combined with "
                    "orpo_alpha or orpo_beta",
                    where="beta",
                    fix="Use orpo_alpha (strength) and orpo_beta (temperature), or beta alone.",
                )
            self.orpo_alpha, self.orpo_beta, self.beta = self.beta, 1.0, None
        self.orpo_alpha = 0.1 if self.orpo_alpha is None else self.orpo_alpha
        self.orpo_beta = 1.0 if self.orpo_beta is None else self.orpo_beta
        if not 0 <= self.orpo_alpha < float("inf"):
            raise ConfigError(f"must be 0 or more, is {self.orpo_alpha}", where="orpo_alpha")
        if not 0 < self.orpo_beta < float("inf"):
            raise ConfigError(f"must be positive, is {self.orpo_beta}", where="orpo_beta")

    def _check_choices(self) -> None:
        for name, choices in (
            ("nll_scope", NLL_SCOPES),
            ("truncation", _TRUNCATIONS),
            ("engine", ENGINES),
            ("on_bad_row", _BAD_ROWS),
            ("model_dtype", _DTYPES),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise ConfigError(f"{value!r} is none of {', '.join(choices)}", where=name)
        if self.batch_eval_metrics:
            raise ConfigError(
                "metrics are computed over whole data sets", where="batch_eval_metrics"
            )

    def _check_lengths(self) -> None:
        for name in ("max_length", "max_prompt_length", "max_tokens_per_microbatch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"must be at least 1, is {value}", where=name)
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


def _as_dict(value: dict[str, Any] | str | None, name: str) -> dict[str, Any]:
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ConfigError(f"is not JSON ({error})", where=name) from error
    if not isinstance(value, dict):
        raise ConfigError(f"must be an object, is {type(value).__name__}", where=name)
    return value
