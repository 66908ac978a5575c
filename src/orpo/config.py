"""Every setting of a run: `transformers.TrainingArguments` plus what ORPO needs."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, fields
from typing import Any, Self, get_type_hints

import torch
from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import SchedulerType

from orpo.errors import ConfigError
from orpo.setting_types import as_columns, as_mapping
from orpo.settings import SCHEDULE, OwnSettings, check, setting, with_deepspeed

_REFUSALS = (
    *(ValueError, OSError, ImportError, TypeError, LookupError, AttributeError, RuntimeError),
    ArithmeticError,
)
"""What transformers raises over settings that it cannot use."""
_SECRETS = ("token", "use_auth_token", "hf_token")
_OF_THE_TRAINER = {
    **{"model": "model", "dataset": "train_dataset", "eval_dataset": "eval_dataset"},
    **{name: name for name in ("train_dataset", "tokenizer", "processing_class", "peft_config")},
    **{name: name for name in ("callbacks", "compute_metrics", "model_init", "optimizers")},
    **{f"lora_{name}": "peft_config" for name in ("r", "alpha", "dropout", "target_modules")},
}
"""What is no setting but an argument of ORPOTrainer."""
MOST_STEPS_OF_A_LOG, FEWEST_LOGS = 10, 30
"""How often is logged where nobody has said how often."""


@dataclass(repr=False)
class ORPOConfig(OwnSettings, TrainingArguments):
    """Settings of an ORPO run.

    Every field of `transformers.TrainingArguments` works as documented there; a batch size counts
    pairs. The few that mean nothing for pairs are refused: label_smoothing_factor,
    include_for_metrics, batch_eval_metrics, debug, and sampling by length. Defaults that differ
    from transformers': learning_rate 8e-6, cosine schedule with 10 % warm-up (the paper's
    appendix C), non-finite losses logged as they are, and logging_steps: None stands for every 10
    steps, or as often as it takes for 30 logs; it is a number once training has begun.

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
        max_tokens_per_microbatch: Positions that go through the model at once; None for what fits
            into memory. Never changes the result, but for what is of a micro-batch by definition:
            dropout, where it is left on, and the auxiliary loss of a mixture of experts.
        compile_blocks: Compile norms and gated MLPs with `torch.compile`; None for where that
            pays: on a processor, in bf16, if the run is long. Numbers change by rounding.
        disable_dropout: Switch every dropout off, and whatever else draws random numbers in
            training, so that both answers are scored by the same network.
        engine: "auto", "shared" or "padded".
        on_bad_row: "error" stops at a malformed row, "drop" leaves it out and counts it.
        data_format: "auto" recognises the columns; else a name out of `orpo.data.formats`.
        columns: Our names of columns -> the data's, as a dict or "prompt=question,chosen=good".
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

    lr_scheduler_type: SchedulerType | str = setting(SCHEDULE, "cosine")

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
        hints = get_type_hints(type(self))
        types = {f.name: hints[f.name] for f in fields(self) if f.init}
        types["accelerator_config"] |= AcceleratorConfig
        check(self, types, {f.name: f.metadata.get("choices") for f in fields(self)})
        half = self.bf16 or self.bf16_full_eval
        # DeepSpeed finds the other ranks by itself.
        ranked = int(os.environ.get("WORLD_SIZE") or 1) > 1 and not with_deepspeed(self)
        if (half or ranked) and not torch.accelerator.is_available():
            self.use_cpu = True  # without it transformers looks for a GPU, and ranks for no others
        adapts = self.logging_steps is None
        if adapts:
            self.logging_steps = MOST_STEPS_OF_A_LOG  # what eval_steps falls back to
        try:
            super().__post_init__()
        except _REFUSALS as error:
            raise self._refused(error) from error
        if adapts and self.logging_strategy == "steps":
            self.logging_steps = None  # the number of steps decides it, when it is known
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
    def format_name(self) -> str:
        """The name of the data's format; empty where it is to be recognised."""
        return "" if self.data_format == "auto" else self.data_format

    @property
    def column_names(self) -> dict[str, str]:
        """Our names of columns -> the data's, where they are not ours."""
        return as_columns(self.columns)

    @property
    def holds_secrets(self) -> bool:
        """Whether a Hub token is among the settings."""
        given = self.model_init_kwargs
        inner = isinstance(given, dict) and any(given.get(name) for name in _SECRETS)
        return bool(self.hub_token or inner)

    def without_secrets(self) -> ORPOConfig:
        """A copy that may be written to a file or sent to a logger: it holds no Hub token."""
        public = copy.copy(self)
        given = as_mapping(self.model_init_kwargs, "model_init_kwargs")
        public.hub_token = None
        public.model_init_kwargs = {k: v for k, v in given.items() if k not in _SECRETS}
        return public

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, without secrets; `ORPOConfig(**settings)` reads them."""
        settings: dict[str, Any] = super(ORPOConfig, self.without_secrets()).to_dict()
        return {**settings, "hub_token": None}

    def __str__(self) -> str:
        text: str = super(ORPOConfig, self.without_secrets()).__str__()
        return text

    __repr__ = __str__


def _meant_by(name: str, names: list[str], value: Any) -> str:
    """What to write in place of a name that is no setting."""
    from orpo.migrate.convert import suggestion  # noqa: PLC0415 - only where it is needed

    found = suggestion(name, [*names, *_OF_THE_TRAINER], value)
    near = {f"Did you mean {own!r}?": argument for own, argument in _OF_THE_TRAINER.items()}
    argument = near.get(found, _OF_THE_TRAINER.get(name))
    return f"Pass it to the trainer: ORPOTrainer({argument}=...)." if argument else found
