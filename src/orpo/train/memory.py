"""Before the first step: does the longest pair fit into the memory that is there?"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

from orpo.config import ORPOConfig
from orpo.engine.compiling import can_compile, pays
from orpo.engine.footprint import FOUR_BITS, Counted, ModelShape
from orpo.engine.fused_head import output_layer
from orpo.engine.memory import MemoryEstimate, Precision, estimate_memory
from orpo.engine.types import Engine
from orpo.errors import ConfigError
from orpo.runs.files import ADAPTER_FILE, located
from orpo.train import adapters, models
from orpo.train.weights import check_weight_files

if TYPE_CHECKING:
    from peft import PeftConfig


_STATE_BYTES = {"8bit": 2, "4bit": 1, "adafactor": 0, "sgd": 0, "lomo": 0, "rmsprop": 4}
"""Bytes of optimizer states per trained parameter, by what is in the optimizer's name."""
_ADAM, _FP32 = 8, 4


@dataclass(frozen=True)
class LongestPair:
    """The pair that takes the most positions."""

    row: int
    positions: int
    tokens: int


@dataclass(frozen=True)
class Plan:
    """How a run will go through its pairs."""

    max_tokens: int
    compile_blocks: bool


def make_plan(
    model: nn.Module, engine: Engine, args: ORPOConfig, dataset: Any, autocast: Precision
) -> Plan:
    """Measure the model, look at the data, and decide."""
    estimate = measure_memory(model, engine, args, autocast, among_ranks=True)
    lengths = pair_lengths(dataset)
    if lengths is not None and args.objective == "sft":
        lengths[:, 2] = 0  # rejected answers stay out of the model
    check_memory(estimate, longest_pair(lengths, engine))
    wanted = args.compile_blocks
    if wanted is None:
        on_cpu = estimate.device == "cpu" and bool(args.bf16)
        wanted = on_cpu and pays(_operations(model, args, lengths))
    return Plan(estimate.max_tokens, bool(wanted) and can_compile(estimate.device))


def _operations(model: nn.Module, args: ORPOConfig, lengths: Any) -> float:
    """Floating point operations of the run, roughly; none if nobody knows how long it is."""
    if lengths is None or not len(lengths):
        return 0.0
    step = args.per_device_train_batch_size * args.gradient_accumulation_steps
    pairs = step * args.max_steps if args.max_steps > 0 else args.num_train_epochs * len(lengths)
    body = sum(p.numel() for p in model.parameters())
    return float(6.0 * body * pairs * lengths[:, :3].sum(1).mean())


def longest_pair(lengths: Any, engine: Engine) -> LongestPair | None:
    """The longest pair by `pair_lengths`; None for a stream, which must be read to know."""
    if lengths is None or not len(lengths):
        return None
    positions = [engine.positions(int(p), int(c), int(r)) for p, c, r, _ in lengths]
    longest = int(np.argmax(positions))
    prompt, chosen, rejected, row = (int(x) for x in lengths[longest])
    return LongestPair(row, positions[longest], prompt + max(chosen, rejected))


def measure_memory(
    model: nn.Module,
    engine: Engine,
    args: ORPOConfig,
    autocast: Precision,
    *,
    among_ranks: bool = False,
) -> MemoryEstimate:
    """What a step of this run will need; ranks on one machine share what it has."""
    size = optimizer_bytes(args)
    often = bool(args.gradient_checkpointing)
    found = estimate_memory(
        model, engine.head, lambda count: size * count, autocast, checkpointing=often
    )
    if not among_ranks or int(os.environ.get("WORLD_SIZE") or 1) == 1:
        return found
    trained = (p for p in model.parameters() if p.requires_grad)
    buckets = sum(p.numel() * p.element_size() for p in trained)  # DDP's copy of the gradients
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE") or 1) if found.device == "cpu" else 1
    return replace(found, fixed=found.fixed + buckets, available=found.available // neighbours)


def check_memory(estimate: MemoryEstimate, longest: LongestPair | None) -> None:
    """Refuse a run that cannot fit."""
    if estimate.needed(1) > estimate.available:
        raise ConfigError(
            f"training needs about {_gib(estimate.fixed)} for gradients, optimizer states and "
            f"work space, and {_gib(estimate.available)} are there",
            where="memory",
            fix="Train an adapter (--lora_r, peft_config), optim=adamw_8bit, or a smaller model.",
        )
    if longest is None or estimate.needed(longest.positions) <= estimate.available:
        return
    room = (estimate.available - estimate.fixed) // estimate.per_position
    raise ConfigError(
        f"a pair of {longest.positions} positions needs about "
        f"{_gib(estimate.needed(longest.positions))}, and {_gib(estimate.available)} are there",
        where=f"train_dataset, row {longest.row}",
        fix=f"Set max_length to about {int(longest.tokens * room / longest.positions)}, or use "
        "gradient_checkpointing, an adapter (--lora_r, peft_config), or bf16.",
    )


def pair_lengths(dataset: Any) -> Any:
    """(pairs, 4) int64: tokens of prompt, chosen and rejected answer, and the row."""
    sides = [f"{side}_ids" for side in ("prompt", "chosen", "rejected")]
    if isinstance(dataset, datasets.Dataset):
        table = dataset.data.table if dataset._indices is None else dataset.flatten_indices().data
        columns = [pc.list_value_length(table.column(side)) for side in sides]
        columns.append(table.column("row"))
        return np.stack([np.asarray(column, dtype=np.int64) for column in columns], axis=1)
    if hasattr(dataset, "__len__") and isinstance(dataset, Iterable):
        found = [[*(len(pair[side]) for side in sides), pair["row"]] for pair in dataset]
        return np.asarray(found, dtype=np.int64)
    return None


def optimizer_bytes(args: TrainingArguments) -> int:
    """Bytes of optimizer states per trained parameter in fp32."""
    name = str(getattr(args.optim, "value", args.optim))
    return next((size for part, size in _STATE_BYTES.items() if part in name), _ADAM)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def load_outline(name: str, args: ORPOConfig, peft_config: PeftConfig | None) -> nn.Module:
    """The model that a run would train, on the meta device; only its configuration is read."""
    folder = located(name)
    if Path(folder, ADAPTER_FILE).is_file() and not Path(folder, "config.json").is_file():
        from peft import PeftConfig  # noqa: PLC0415 - slow

        try:
            adapter = PeftConfig.from_pretrained(folder)
        except models.UNREADABLE as error:
            raise models.unloadable("adapter", folder, error) from error
        adapter.inference_mode = False
        return load_outline(adapters.base_of_adapter(folder), args, adapter)
    check_weight_files(folder, adapters.fetching(args))
    adapters.check_quantize(args, adapter=peft_config is not None)
    config = models.read_config(folder, args)
    adapters.check_stored(config, name, adapter=peft_config is not None)
    settings = models.read_generation_settings(folder, args)
    try:
        with torch.device("meta"):
            model: nn.Module = models.auto_class(config).from_config(
                config, dtype=_dtype(config, args), trust_remote_code=args.trust_remote_code
            )
            if settings is not None:
                cast(Any, model).generation_config = settings
            if peft_config is not None:
                model = adapters.add_adapter(cast(PreTrainedModel, model), peft_config, args)
            return model
    except models.UNREADABLE as error:
        raise models.unloadable("model", name, error) from error


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
    inner = ["intermediate_size", "ffn_dim", "n_inner"]
    inner = ["moe_intermediate_size", *inner] if experts > 1 else inner
    sizes = (getattr(config, name, None) for name in inner)
    tied = layer is not None and getattr(layer, "weight", None) is table.weight
    return ModelShape(
        width=int(config.hidden_size),
        layers=int(config.num_hidden_layers),
        mlp=int(next(filter(None, sizes), 4 * config.hidden_size)) * experts,
        vocabulary=models.vocabulary_size(model) or 0,
        keys=int(getattr(config, "num_key_value_heads", None) or heads) * int(size),
        tied=tied,
        counted=sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name),
    )


def count_bytes(model: nn.Module, args: ORPOConfig) -> Counted:
    """What a training of this model holds."""
    in_four_bits = _layers_in_four_bits(model) if adapters.is_quantized(args) else set()
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
        if adapters.is_quantized(args):
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
