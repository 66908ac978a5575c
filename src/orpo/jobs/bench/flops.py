"""How much arithmetic a pair is worth, and how much this machine can do."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from orpo.errors import ModelError
from orpo.jobs.bench.rows import PairLengths

__all__ = ["ModelSize", "matmul_rate", "model_size", "size_of", "useful_flops"]

_PRODUCTS = 7


@dataclass(frozen=True)
class ModelSize:
    """The parameters that take part in matrix products.

    Attributes:
        body: Parameters without embeddings and head; all experts of a mixture count.
        vocabulary: Rows of the head.
        width: Columns of the head.
        positions: Positions that the model was made for, if it says.
    """

    body: int
    vocabulary: int
    width: int
    positions: int | None = None


def model_size(name: str) -> ModelSize:
    """The sizes of a model folder or Hub id, read from its configuration.

    Raises:
        ModelError: There is none, or it is no causal language model.
    """
    try:
        config = AutoConfig.from_pretrained(name)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        first = next(iter(str(error).splitlines()), repr(error)).rstrip(".")
        raise ModelError(f"the model cannot be read ({first})", where=name) from error
    return size_of(model, getattr(config, "max_position_embeddings", None))


def size_of(model: nn.Module, positions: int | None = None) -> ModelSize:
    """The sizes of a model object."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    outside = {id(p) for module in (*tables, head) for p in module.parameters()}
    body = sum(p.numel() for p in model.parameters() if id(p) not in outside)
    vocabulary, width = head.weight.shape
    return ModelSize(body, int(vocabulary), int(width), positions)


def useful_flops(size: ModelSize, pair: PairLengths, *, lora: bool) -> int:
    """Floating-point operations that a pair needs if no token is computed twice.

    6 N (P + C + R) + 6 V d (P - 1 + C + R): two per parameter and token forward, four backward, and
    the head wherever a token is predicted. Frozen weights need no gradient: 4 instead of 6.
    Attention's products of tokens with tokens are left out, for every side alike.
    """
    factor = 4 if lora else 6
    tokens = pair.prompt + pair.chosen + pair.rejected
    return factor * (size.body * tokens + size.vocabulary * size.width * (tokens - 1))


def matmul_rate(precision: str) -> float:
    """Operations per second of a large matrix product in the precision used; the median of a few.

    Args:
        precision: One of `PRECISIONS`.
    """
    width = 8192 if torch.cuda.is_available() else 2048
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    left, right = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    seconds = [_timed(left, right) for _ in range(_PRODUCTS + 1)][1:]
    rate = 2 * width**3 / statistics.median(seconds)
    del left, right
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return rate


def _timed(left: torch.Tensor, right: torch.Tensor) -> float:
    begin = time.perf_counter()
    left @ right
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - begin
