"""What a run cost, counted rather than timed: the same on every machine.

Counted is what really went through the model, evaluations left out. FLOPs are those of matrix
products with weights: a position costs 2 N forward and 4 N backward, N weights without embeddings
and output layer; a position whose logits are computed costs 2 V d and 4 V d more. A frozen weight
needs no gradient of its own: 2 instead of 4 backward. Left out are attention's products of tokens
with tokens, and what gradient checkpointing computes twice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments

from orpo.engine.types import EngineOutput
from orpo.runs.typed import typed
from orpo.train.checkpoints import Progress
from orpo.train.parallel import gathered

WORK = "work.json"
"""The file of a run folder that holds `Work.as_dict()`."""


@dataclass(frozen=True)
class Work:
    """What some training took; two stages add up with +."""

    steps: int = 0
    pairs: int = 0  # rows that were trained on, each as often as it was
    sequences_trained: int = 0  # answers with their prompts that went forward and backward
    sequences_scored: int = 0  # the same without gradient: the reference of DPO
    sequences_live: int = 0
    """Forward passes of sequences if the reference were a second model in memory that is asked in
    every step, as DPO is usually counted."""
    positions_trained: int = 0
    """Positions that went through the model with gradient; a prompt that both answers share is one,
    and padding counts."""
    positions_scored: int = 0  # the same without gradient
    predictions_trained: int = 0  # positions whose logits were computed, with gradient
    predictions_scored: int = 0  # the same without gradient
    flops: float = 0.0

    def __add__(self, other: Work) -> Work:
        """The work of both."""
        names = [f.name for f in fields(self)]
        return Work(**{name: getattr(self, name) + getattr(other, name) for name in names})

    @property
    def passes_per_pair(self) -> float:
        """Forward passes of sequences for each pair trained on: 2 for ORPO, 1 for SFT."""
        return (self.sequences_trained + self.sequences_scored) / max(1, self.pairs)

    @property
    def live_passes_per_pair(self) -> float:
        """The same with a reference model that is asked in every step: 4 for DPO."""
        return self.sequences_live / max(1, self.pairs)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **asdict(self),
            "passes_per_pair": self.passes_per_pair,
            "live_passes_per_pair": self.live_passes_per_pair,
        }


@dataclass(frozen=True)
class ModelCost:
    """FLOPs of one position: of the body, and of the output layer where it is asked."""

    body: int
    body_trained: int
    head: int
    head_trained: int

    @classmethod
    def of(cls, model: nn.Module) -> ModelCost:
        """Count a model's weights, wrapped or not, on this rank or in pieces."""
        find = getattr(model, "get_output_embeddings", None)
        layer = find() if find is not None else None
        head = {} if layer is None else {id(p): p for p in layer.parameters()}
        tables = (m for m in model.modules() if isinstance(m, nn.Embedding))
        outside = {id(p) for table in tables for p in table.parameters()} | head.keys()
        # A vector scales or shifts: no matrix product.
        body = [p for p in model.parameters() if id(p) not in outside and len(_shape(p)) > 1]
        return cls(*_sizes(body), *_sizes(head.values()))

    def flops(self, work: Work) -> float:
        """Of the positions and predictions of some work."""
        trained = work.positions_trained * (4.0 * self.body + 2.0 * self.body_trained)
        trained += work.predictions_trained * (4.0 * self.head + 2.0 * self.head_trained)
        scored = work.positions_scored * self.body + work.predictions_scored * self.head
        return trained + 2.0 * scored


def _sizes(weights: Iterable[nn.Parameter]) -> tuple[int, int]:
    """All, and trained."""
    sizes = [(math.prod(_shape(p)), p.requires_grad) for p in weights]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    quantised = getattr(parameter, "quant_state", None)  # bitsandbytes: two weights in a byte
    if quantised is not None:
        return tuple(quantised.shape)
    return tuple(getattr(parameter, "ds_shape", parameter.shape))  # DeepSpeed: a piece lies here


@dataclass
class WorkMeter:
    """Counts what goes through the model on this rank; an accelerator is not waited for."""

    cost: ModelCost | None = None
    live: int = 1
    whole: Work | None = None
    _before: Work = field(default_factory=Work)
    _second: Tensor | None = None  # rejected answers that were trained on; lies on the device

    def start(self, model: nn.Module, before: Work) -> None:
        """Begin a run of a model, for which some work was done before."""
        self.cost, self._before, self._second = ModelCost.of(model), before, None
        self.whole = None

    def kept(self, steps: int) -> dict[str, Any]:
        """What a checkpoint holds of it: `work` of `Progress`."""
        return {"work": [asdict(self.total(steps))]}

    def take_up(self, progress: Progress, args: TrainingArguments) -> None:
        """Go on from what a checkpoint holds of every rank; the first rank takes all of it."""
        found = sum((typed(Work, told, where="work") for told in progress.work), Work())
        self._before, self._second = found if args.process_index == 0 else Work(), None

    def add_trained(self, output: EngineOutput) -> None:
        """A micro-batch went forward, and is going backward."""
        rejected = output.logps.has_rejected.sum()
        self._second = rejected if self._second is None else self._second + rejected
        rows = len(output.logps.chosen_sum)
        self._before += Work(
            pairs=rows,
            sequences_trained=rows,
            sequences_live=self.live * rows,
            positions_trained=output.positions,
            predictions_trained=output.predictions,
        )

    def total(self, steps: int) -> Work:
        """All of it after some optimizer steps."""
        if self.whole is not None:
            return self.whole
        if self._second is not None:
            rejected, self._second = int(self._second), None
            self._before += Work(sequences_trained=rejected, sequences_live=self.live * rejected)
        flops = 0.0 if self.cost is None else self.cost.flops(self._before)
        return replace(self._before, steps=steps, flops=flops)


def steps_in_all(args: TrainingArguments, pairs: int, ranks: int) -> int:
    """Optimizer steps of a run over so many pairs."""
    an_epoch = steps_per_epoch(args, pairs, ranks)
    by_epochs = math.ceil(args.num_train_epochs * an_epoch)
    return int(args.max_steps) if args.max_steps > 0 else by_epochs


def steps_per_epoch(args: TrainingArguments, pairs: int, ranks: int) -> int:
    """As transformers counts them: batches of every rank, then accumulated."""
    batch = args.per_device_train_batch_size * ranks
    batches = pairs // batch if args.dataloader_drop_last else math.ceil(pairs / batch)
    steps: int = math.ceil(batches / args.gradient_accumulation_steps)
    return max(1, steps)


def scored(output: EngineOutput) -> Work:
    """A micro-batch that went forward only."""
    sequences = len(output.logps.chosen_sum) + int(output.logps.has_rejected.sum())
    return Work(
        sequences_scored=sequences,
        positions_scored=output.positions,
        predictions_scored=output.predictions,
    )


def on_all_ranks(own: Work, ranks: int) -> Work:
    """The work of all ranks together; every rank must ask."""
    return replace(sum(gathered(own, ranks), Work()), steps=own.steps)


def now() -> float:
    """A clock's seconds once the accelerator, if there is one, has nothing left to do."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


class StepClock(TrainerCallback):
    """When each optimizer step began and ended, in seconds of `now`."""

    def __init__(self) -> None:
        self.began: list[float] = []
        self.ended: list[float] = []

    @property
    def seconds(self) -> list[float]:
        """Of each step: forward, backward and optimizer, without the data before it."""
        return [end - begin for begin, end in zip(self.began, self.ended, strict=False)]

    def period(self) -> float:
        """Mean seconds from a step's end to the next one's; the first step, a slow one, is out."""
        return (self.ended[-1] - self.ended[0]) / (len(self.ended) - 1)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step begins."""
        self.began.append(now())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step was taken."""
        self.ended.append(now())
