"""Loading, checking and preparing the model and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from orpo.data import PLAIN_TEMPLATE, has_chat_template
from orpo.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from peft import PeftConfig

    from orpo.config import ORPOConfig

__all__ = [
    "add_adapter",
    "disable_dropout",
    "ensure_trainable",
    "load_model",
    "load_tokenizer",
    "prepare_tokenizer",
]

_ADAPTER_FILE = "adapter_config.json"


def load_model(name: str, args: ORPOConfig) -> PreTrainedModel:
    """A causal language model from a folder or a Hub id, weights from safetensors only.

    Raises:
        ModelError: It cannot be loaded; says what is missing.
    """
    kwargs: dict[str, Any] = {
        "dtype": args.model_dtype,
        "trust_remote_code": args.trust_remote_code,
        "use_safetensors": True,
        **(args.model_init_kwargs if isinstance(args.model_init_kwargs, dict) else {}),
    }
    _require_folder(name)
    try:
        config = AutoConfig.from_pretrained(
            name,
            trust_remote_code=kwargs["trust_remote_code"],
            revision=kwargs.get("revision", "main"),
        )
        ensure_trainable(config, name)
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(name, **kwargs)
    except (OSError, ValueError, KeyError) as error:
        raise _unloadable("model", name, error) from error
    return model


def load_tokenizer(name: str, args: ORPOConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or Hub id.

    Raises:
        ModelError: There is none.
    """
    _require_folder(name)
    kwargs = args.model_init_kwargs if isinstance(args.model_init_kwargs, dict) else {}
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            name,
            trust_remote_code=args.trust_remote_code,
            revision=kwargs.get("revision", "main"),
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _unloadable("tokenizer", name, error) from error
    return tokenizer


def ensure_trainable(config: Any, name: str) -> None:
    """Refuse models that do not continue a text.

    Raises:
        ModelError: An encoder-decoder model.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{type(config).__name__.removesuffix('Config')} is an encoder-decoder model; "
            "orpo trains decoder-only models",
            where=name or "model",
            fix="Use a causal language model such as Llama, Qwen or Mistral.",
        )


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, args: ORPOConfig) -> list[str]:
    """Give a tokenizer what training and chatting need; one line for each thing that was missing.

    A padding token (the end-of-sequence token: padding is masked and never trained on), the chat
    template of `args.chat_template`, or a plain transcript style where there is none at all.
    """
    said = []
    if tokenizer.pad_token_id is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
        said.append(f"the tokenizer has no padding token: {tokenizer.eos_token!r} is used, masked")
    if args.chat_template is not None:
        tokenizer.chat_template = Path(args.chat_template).read_text(encoding="utf-8")
        said.append(f"chat template taken from {args.chat_template}")
    return said


def give_plain_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """For messages with a tokenizer without chat template: a plain transcript, saved with it."""
    if has_chat_template(tokenizer):
        return None
    tokenizer.chat_template = PLAIN_TEMPLATE
    return (
        "the tokenizer has no chat template: messages are written as "
        "'Human: ... Assistant: ...' transcripts, and this template is saved with the model"
    )


def add_adapter(model: PreTrainedModel, peft_config: PeftConfig, args: ORPOConfig) -> nn.Module:
    """Wrap a model with a peft adapter.

    Raises:
        ConfigError: The model carries an adapter already, or the adapter does not fit the model.
    """
    from peft import (  # noqa: PLC0415
        PeftModel,
        get_peft_model,
        prepare_model_for_kbit_training,
    )

    if isinstance(model, PeftModel):
        raise ConfigError(
            "the model already carries an adapter",
            where="peft_config",
            fix="Merge it first (model.merge_and_unload()), or leave peft_config out to train it.",
        )
    if getattr(model, "is_quantized", False):
        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=args.gradient_checkpointing
        )
    elif args.gradient_checkpointing:
        model.enable_input_require_grads()
    try:
        adapted: nn.Module = get_peft_model(model, peft_config)
    except ValueError as error:
        raise ConfigError(str(error), where="peft_config") from error
    return adapted


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout probability of a model to zero, modules and attention attributes alike."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attn_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def _require_folder(name: str) -> None:
    """A name that looks like a path must exist, so that no Hub error hides a typing mistake."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file() and not (path / _ADAPTER_FILE).is_file():
            raise ModelError(
                "the folder holds no model (no config.json)",
                where=name,
                fix="Give a folder written by save_pretrained, or a Hub id.",
            )
    elif path.is_file() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(
            "no such model folder", where=name, fix="Give a folder of a model, or a Hub id."
        )


def _unloadable(what: str, name: str, error: Exception) -> ModelError:
    if isinstance(error, ModelError):
        return error
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
    return ModelError(
        f"the {what} cannot be loaded ({first})",
        where=name,
        fix="Give a folder with config.json, tokenizer files and *.safetensors, or a Hub id.",
    )


def default_dtype_note(model: nn.Module) -> str:
    """The dtype of the weights in words, for the recipe."""
    dtypes = {str(p.dtype).removeprefix("torch.") for p in model.parameters()}
    return "+".join(sorted(dtypes)) if dtypes else str(torch.get_default_dtype())
