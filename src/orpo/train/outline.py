"""A model without its weights: what it consists of, and how many bytes that will take.

The model is built on PyTorch's meta device from its configuration alone, with its adapter, so that
a model of any size is known in a second and without its files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from orpo.config import ORPOConfig
from orpo.engine.footprint import FOUR_BITS, Counted, ModelShape
from orpo.engine.head_tap import output_layer
from orpo.train.adapters import ADAPTER_FILE, base_of_adapter
from orpo.train.generation_settings import read_generation_settings
from orpo.train.models import (
    UNREADABLE,
    add_adapter,
    auto_class,
    fetching,
    located,
    read_config,
    unloadable,
    vocabulary_size,
)
from orpo.train.preflight import optimizer_bytes
from orpo.train.quantize import check_quantize, check_stored, is_quantized
from orpo.train.weight_files import check_weight_files

if TYPE_CHECKING:
    from peft import PeftConfig

__all__ = ["count_bytes", "load_outline", "shape_of"]

_FP32 = 4


def load_outline(name: str, args: ORPOConfig, peft_config: PeftConfig | None) -> nn.Module:
    """The model that a run would train, on the meta device; only its configuration is read.

    Args:
        name: A folder or a Hub id, of a model or of an adapter.
        args: How models are loaded.
        peft_config: The adapter to train, if any.

    Raises:
        ModelError: There is no configuration, or the model cannot be trained.
        ConfigError: Settings that contradict each other.
    """
    folder = located(name)
    if Path(folder, ADAPTER_FILE).is_file() and not Path(folder, "config.json").is_file():
        return _adapted(folder, args)
    check_weight_files(folder, fetching(args))
    check_quantize(args, adapter=peft_config is not None)
    config = read_config(folder, args)
    check_stored(config, name, adapter=peft_config is not None)
    settings = read_generation_settings(folder, fetching(args))
    try:
        with torch.device("meta"):
            model: nn.Module = auto_class(config).from_config(
                config, dtype=_dtype(config, args), trust_remote_code=args.trust_remote_code
            )
            if settings is not None:
                cast(Any, model).generation_config = settings
            return (
                model
                if peft_config is None
                else add_adapter(cast(PreTrainedModel, model), peft_config, args)
            )
    except UNREADABLE as error:
        raise unloadable("model", name, error) from error


def _adapted(folder: str, args: ORPOConfig) -> nn.Module:
    from peft import PeftConfig  # noqa: PLC0415

    try:
        adapter = PeftConfig.from_pretrained(folder)
    except UNREADABLE as error:
        raise unloadable("adapter", folder, error) from error
    adapter.inference_mode = False
    return load_outline(base_of_adapter(folder), args, adapter)


def _dtype(config: Any, args: ORPOConfig) -> torch.dtype:
    given = args.model_init_kwargs if isinstance(args.model_init_kwargs, dict) else {}
    name = given.get("dtype", given.get("torch_dtype", args.model_dtype))
    found = getattr(config, "dtype", None) if name == "auto" else getattr(torch, str(name), None)
    return found if isinstance(found, torch.dtype) else torch.float32


def shape_of(model: nn.Module) -> ModelShape:
    """The sizes that decide what a token keeps; all weights counted, an adapter's left out.

    Models that are not of the Llama kind are taken for such with their sizes: of a mixture of
    experts those that a token goes through, with the width of each.
    """
    config: Any = cast(Any, model).config.get_text_config()
    layer = output_layer(model)
    table = cast(Any, model).get_input_embeddings()
    heads = int(config.num_attention_heads)
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    experts = int(getattr(config, "num_experts_per_tok", None) or 1)
    inner = (
        getattr(config, "moe_intermediate_size", None) if experts > 1 else None
    ) or _inner_size(config)
    tied = layer is not None and getattr(layer, "weight", None) is table.weight
    return ModelShape(
        width=int(config.hidden_size),
        layers=int(config.num_hidden_layers),
        mlp=int(inner) * experts,
        vocabulary=vocabulary_size(model) or 0,
        keys=int(getattr(config, "num_key_value_heads", None) or heads) * int(size),
        tied=tied,
        counted=sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name),
    )


def _inner_size(config: Any) -> int:
    named = (getattr(config, name, None) for name in ("intermediate_size", "ffn_dim", "n_inner"))
    return next((int(size) for size in named if size), 4 * int(config.hidden_size))


def count_bytes(model: nn.Module, args: ORPOConfig) -> Counted:
    """What a training of this model holds.

    Args:
        model: As `load_outline` gives it.
        args: Precision, optimizer and quantisation.
    """
    in_four_bits = _layers_in_four_bits(model) if is_quantized(args) else set()
    weights = gradients = states = cast_bytes = 0.0
    of_optimizer = optimizer_bytes(args)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    layer = output_layer(model)
    head = id(getattr(layer, "weight", None))
    for parameter in model.parameters():
        count, size = parameter.numel(), parameter.element_size()
        if id(parameter) in in_four_bits:
            weights += FOUR_BITS * count
            continue
        if is_quantized(args):
            size = _FP32  # peft has what is not quantised computed in fp32
        weights += size * count
        looked_up = id(parameter) in tables and id(parameter) != head
        if size == _FP32 and (args.bf16 or args.fp16) and not looked_up and not in_four_bits:
            cast_bytes += 2 * count if parameter.dim() > 1 else 0
        if parameter.requires_grad:
            gradients += size * count
            # Adam's moments have the dtype of the weights.
            states += (2 * size if of_optimizer == 2 * _FP32 else of_optimizer) * count
    full, quantised = not hasattr(model, "peft_config"), bool(in_four_bits)
    return Counted(int(weights), int(gradients), int(states), int(cast_bytes), full, quantised)


def _layers_in_four_bits(model: nn.Module) -> set[int]:
    """The frozen matrices that bitsandbytes takes over: all but the output layer."""
    head = output_layer(model)
    return {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Linear) and module is not head and not module.weight.requires_grad
    }
