"""From the steps of the bench's sides to rates, ratios and memory; what a pair's work is."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from orpo.errors import ModelError
from orpo.experiments.bench_rows import BenchRow, PairLengths
from orpo.train.clock import now

_PRODUCTS = 7


@dataclass(frozen=True)
class ModelSize:
    """The parameters that take part in matrix products."""

    body: int  # without embeddings and head; all experts of a mixture count
    vocabulary: int  # rows of the head
    width: int  # columns of the head
    positions: int | None = None  # that the model was made for, if it says

    def useful_flops(self, pair: PairLengths, *, lora: bool) -> int:
        """Floating-point operations that a pair needs if no token is computed twice.

        6 N (P + C + R) + 6 V d (P - 1 + C + R): two per parameter and token forward, four backward,
        and the head wherever a token is predicted. Frozen weights need no gradient: 4 instead of 6.
        Attention's products of tokens with tokens are left out, for every side alike.
        """
        tokens = sum(pair)
        return (4 if lora else 6) * (
            self.body * tokens + self.vocabulary * self.width * (tokens - 1)
        )


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


def matmul_rate(precision: str) -> float:
    """Operations per second of a large matrix product, the median of a few."""
    width = 8192 if torch.cuda.is_available() else 2048
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    left, right = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(_PRODUCTS + 1):
        begin = time.perf_counter()
        left @ right
        seconds.append(now() - begin)
    del left, right
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return 2 * width**3 / statistics.median(seconds[1:])


@dataclass(frozen=True)
class Step:
    """One step of one side: seconds, those until it was ready for the next, and a finite loss."""

    seconds: float
    between: float
    loss: float | None


@dataclass(frozen=True)
class Side:
    """What one side did in one cell."""

    facts: dict[str, Any]  # its `ready` message
    steps: list[Step]  # those of the warm-up included
    memory: dict[str, Any]  # its `done` message
    rows: list[BenchRow]  # in order of use
    batch_size: int
    warmup: int  # leading steps that do not count

    @property
    def counted(self) -> list[Step]:
        """The steps after the warm-up."""
        return self.steps[self.warmup :]

    @property
    def seconds(self) -> float:
        """Seconds of all counted steps."""
        return sum(step.seconds for step in self.counted)

    def rates(self, worth: Callable[[PairLengths], int]) -> list[float]:
        """What the pairs of each counted step are worth, per second."""
        starts = range(self.warmup * self.batch_size, len(self.rows), self.batch_size)
        values = [sum(worth(r.lengths) for r in self.rows[i : i + self.batch_size]) for i in starts]
        return [n / step.seconds for n, step in zip(values, self.counted, strict=True)]

    @property
    def token_rates(self) -> list[float]:
        """Tokens per second of each counted step: prompt + chosen + rejected, each once."""
        return self.rates(sum)


def side_figures(side: Side, size: ModelSize, matmul_rate: float, *, lora: bool) -> dict[str, Any]:
    """The figures of one side; rates are medians over the counted steps."""
    peak, idle = side.memory["peak"], side.memory["idle"]
    rate = statistics.median(side.rates(lambda pair: size.useful_flops(pair, lora=lora)))
    return {
        "engine": side.facts["engine"],
        "gradient_checkpointing": side.facts["gradient_checkpointing"],
        "pairs_per_second": statistics.median(side.batch_size / s.seconds for s in side.counted),
        "pairs_per_second_overall": side.batch_size * len(side.counted) / side.seconds,
        "tokens_per_second": statistics.median(side.token_rates),
        "useful_flops_per_second": rate,
        "share_of_matmul_rate": rate / matmul_rate,
        "peak_bytes": peak,
        "idle_bytes": idle,
        "beyond_idle_bytes": peak - idle,
        "peak_without_loading": side.memory["exact"],
        "step_seconds": [step.seconds for step in side.steps],
        "between_steps_seconds": statistics.median(step.between for step in side.counted),
        "losses": [step.loss for step in side.steps],
        "notes": side.facts["notes"],
    }


def against(ours: Side, peer: Side) -> dict[str, Any]:
    """Our side beside a peer: speed above 1 and memory below 1 are in our favour.

    The ratio of a round is that of tokens per second, which is that of pairs per second where both
    had the same rows in it; a peer whose rows are grouped by length had others.
    """
    rounds = [a / b for a, b in zip(ours.token_rates, peer.token_rates, strict=True)]
    a, b = (side.memory["peak"] for side in (ours, peer))
    idle_a, idle_b = (side.memory["idle"] for side in (ours, peer))
    differing = (Counter(peer.facts["tokens"]) - Counter(ours.facts["tokens"])).total()
    return {
        "speed_ratio": {
            "median": statistics.median(rounds),
            "min": min(rounds),
            "max": max(rounds),
            "overall": peer.seconds / ours.seconds,
        },
        "peak_memory_ratio": a / b,
        "beyond_idle_memory_ratio": (a - idle_a) / (b - idle_b) if b > idle_b else None,
        "first_losses": [ours.steps[0].loss, peer.steps[0].loss],
        "first_loss_relative_difference": _difference(ours, peer),
        "same_tokens": differing == 0,
        "rows_with_other_tokens": differing,
    }


def _difference(ours: Side, peer: Side) -> float | None:
    """Relative difference of the first losses; None where the first rows differ."""
    a, b = ours.steps[0].loss, peer.steps[0].loss
    same = ours.rows[: ours.batch_size] == peer.rows[: peer.batch_size]
    return abs(a - b) / abs(b) if a is not None and b and same else None
