"""A base model in four bits, on which an adapter is trained: QLoRA (arXiv 2305.14314)."""

from __future__ import annotations

from importlib.util import find_spec
from inspect import signature
from typing import Any

import torch
from torch import nn
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from orpo.config import ORPOConfig
from orpo.errors import ConfigError

__all__ = ["check_loaded", "check_quantize", "check_stored", "in_four_bits", "is_quantized"]


def check_quantize(args: ORPOConfig, *, by_name: bool = True, adapter: bool) -> None:
    """Whether `quantize` can be meant.

    Args:
        args: The settings.
        by_name: Whether the model is given by path or id, and is loaded here.
        adapter: Whether an adapter is trained.

    Raises:
        ConfigError: The model is loaded already, all its weights would be trained, or
            bitsandbytes is not there.
    """
    if args.quantize == "none":
        return
    if not by_name:
        raise ConfigError(
            "only used for a model given by path or id, but the model is an object",
            where="quantize",
            fix="Load it with quantization_config=BitsAndBytesConfig(...).",
        )
    if not adapter:
        raise ConfigError(
            f"weights in {args.quantize} cannot be trained themselves",
            where="quantize",
            fix="Train an adapter on them: add --lora_r 16 (peft_config in Python).",
        )
    if "quantization_config" in (args.model_init_kwargs or {}):
        raise ConfigError(
            "cannot be combined with quantization_config in model_init_kwargs",
            where="quantize",
            fix="Use one of them.",
        )
    if find_spec("bitsandbytes") is None:
        raise ConfigError("needs bitsandbytes", where="quantize", fix="pip install 'orpo[qlora]'")


def in_four_bits(args: ORPOConfig) -> dict[str, Any]:
    """What `from_pretrained` is told about it; nothing where it is not asked for."""
    if args.quantize == "none":
        return {}
    from transformers import BitsAndBytesConfig  # noqa: PLC0415

    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": how}


def check_stored(config: Any, name: str, *, adapter: bool) -> None:
    """Whether a model whose weights are stored quantised can be trained, from its configuration.

    Args:
        config: Of the model; a kind of weights that can be unpacked is judged once it is loaded.
        name: Of the model, for the message.
        adapter: Whether an adapter is trained.

    Raises:
        ConfigError: All its weights would be trained.
    """
    stored = getattr(config, "quantization_config", None)
    if stored is None or adapter:
        return
    given = stored if isinstance(stored, dict) else vars(stored)
    kind = str(getattr(given.get("quant_method"), "value", given.get("quant_method")))
    described = AUTO_QUANTIZATION_CONFIG_MAPPING.get(kind)
    if described is None or "dequantize" not in signature(described).parameters:
        raise _frozen(kind, name)


def check_loaded(model: nn.Module, name: str) -> None:
    """The same of a model that is loaded, with its adapter if it has one.

    Raises:
        ConfigError: All its weights would be trained, or its kind of weights cannot be trained on.
    """
    quantizer = getattr(model, "hf_quantizer", None)
    if not getattr(model, "is_quantized", False) or quantizer is None:
        return
    kind = str(getattr(quantizer.quantization_config.quant_method, "value", "") or "few bits")
    if hasattr(model, "peft_config"):
        if not quantizer.is_trainable:
            raise ConfigError(
                f"weights stored as {kind} cannot be trained on, says transformers",
                where=name,
                fix="Give the model with weights that are not quantised.",
            )
    elif not getattr(quantizer, "is_qat_trainable", False):
        raise _frozen(kind, name)


def _frozen(kind: str, name: str) -> ConfigError:
    return ConfigError(
        f"its weights are stored quantised ({kind}) and cannot be trained themselves",
        where=name,
        fix="Train an adapter on them: add --lora_r 16 (peft_config in Python).",
    )


def is_quantized(args: ORPOConfig) -> bool:
    """Whether the layers are loaded in four bits, however that was asked for."""
    given = args.model_init_kwargs
    how = given.get("quantization_config") if isinstance(given, dict) else None
    return args.quantize != "none" or bool(isinstance(how, dict) and how.get("load_in_4bit"))
