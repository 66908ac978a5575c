"""DPO's reference: the model as it is before the first step, asked once for every pair.

Afterwards its log-probabilities are columns of the data, and no second model is held. "As it is"
includes an adapter that was trained before, such as by SFT; a fresh one computes what its base
does. They lie in every checkpoint, under its manifest: from the weights of a run that goes on they
could not be computed again.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from orpo.engine.padded import ApartEngine, PaddedEngine
from orpo.engine.probing import on_trial
from orpo.engine.shared import SharedEngine
from orpo.engine.types import Engine
from orpo.errors import CheckpointError, ConfigError
from orpo.objective.types import PairLogps
from orpo.terminal import under_way
from orpo.train.continuity import stop_of
from orpo.train.datasets import named_sets
from orpo.train.guards import EVALUATING
from orpo.train.parallel import gathered, score_batch, scoring
from orpo.train.same_run import data_fingerprint
from orpo.train.weights import weights_digest
from orpo.train.work import Work, scored

WITH_REFERENCE = ("reference_chosen", "reference_rejected")
"""Columns that hold the reference's summed log-probabilities of both answers."""

Batch = dict[str, Tensor]


class ReferencedPairs(torch.utils.data.Dataset[dict[str, Any]]):
    """Prepared pairs, each with `WITH_REFERENCE`."""

    def __init__(self, pairs: Any, sums: Tensor) -> None:
        self.pairs, self.sums = pairs, sums

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        columns = self.pairs[list(indices)]
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        sums = self.sums[torch.tensor(indices)].tolist()
        return [
            {**row, **dict(zip(WITH_REFERENCE, both, strict=True))}
            for row, both in zip(rows, sums, strict=True)
        ]


@dataclass(frozen=True)
class ReferenceCollator:
    """Puts `WITH_REFERENCE` into the batches of another collator, where the rows have it."""

    collate: Callable[[list[Any]], Batch]
    device: torch.device

    def __call__(self, features: list[Any]) -> Batch:
        """A batch with `reference_chosen` and `reference_rejected`, (B,)."""
        batch = self.collate(features)
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        for name in WITH_REFERENCE:
            if name in features[0]:
                batch[name] = torch.tensor([row[name] for row in features], dtype=dtype)
        return batch


REFERENCE = "reference.safetensors"
"""The file of a checkpoint: data fingerprint -> (pairs, 2) float64, chosen and rejected."""
_TOGETHER = 64  # pairs that micro-batches are cut from

Ask = Callable[[datasets.Dataset], tuple[Tensor, Work]]
"""From prepared pairs to their (pairs, 2) sums, and what it took."""


@dataclass
class Reference:
    """The reference's log-probabilities of each data set."""

    ask: Ask  # asks the model as it is
    sums: dict[str, Tensor] = field(default_factory=dict)  # data fingerprint -> (pairs, 2) float64
    costs: dict[str, Work] = field(default_factory=dict)  # data fingerprint -> what it took
    weights: str | None = None  # digest of the model that was asked; None if it has none
    fixed: bool = False  # whether training has begun: the reference is no longer at hand

    def begin(self, model: nn.Module, data: Mapping[str, Any]) -> Work:
        """Ask for everything that a run will need, ahead of its first step."""
        self._forget_others(model)
        keys = [self._asked(dataset, name) for name, dataset in data.items()]
        self.fixed = True
        return self.costs[keys[0]]

    def go_on_from(self, checkpoint: Path, data: Mapping[str, Any]) -> None:
        """Take what a checkpoint holds."""
        path = checkpoint / REFERENCE
        try:
            self.sums, self.costs, self.weights = load_file(path), {}, None
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{REFERENCE} cannot be read ({error})", where=str(checkpoint)
            ) from error
        self.fixed = True
        for name, dataset in data.items():
            self._known(dataset, name)

    def save(self, folder: Path) -> None:
        """Write `REFERENCE`."""
        save_file({key: sums.contiguous() for key, sums in self.sums.items()}, folder / REFERENCE)

    def of(self, model: nn.Module, dataset: Any, name: str) -> ReferencedPairs:
        """A data set whose rows carry what the reference says."""
        if not self.fixed:
            self._forget_others(model)
            self._asked(dataset, name)
        return ReferencedPairs(dataset, self._known(dataset, name))

    def _forget_others(self, model: nn.Module) -> None:
        """Let go of what another model has answered."""
        digest = weights_digest(model)
        if digest is None or digest != self.weights:
            self.sums, self.costs, self.weights = {}, {}, digest

    def _asked(self, dataset: Any, name: str) -> str:
        key = data_fingerprint(dataset)
        if key is None:
            raise ConfigError("expected prepared pairs, map-style", where=name)
        if key not in self.sums:
            self.sums[key], self.costs[key] = self.ask(dataset)
        return key

    def _known(self, dataset: Any, name: str) -> Tensor:
        key = data_fingerprint(dataset)
        if key not in self.sums:
            raise ConfigError(
                "its reference log-probabilities are not known: they come from the model before "
                "training",
                where=name,
                fix="Give the data that training began with, or score it with objective=orpo.",
            )
        return self.sums[key]


def begin_reference(trainer: Any, checkpoint: str | None) -> Work:
    """Have a trainer's reference ready ahead of its first step; what that took."""
    if trainer.args.objective != "dpo":
        return Work()
    data = named_sets(trainer.train_dataset, trainer.eval_dataset)
    if checkpoint is not None:
        trainer.reference.go_on_from(Path(checkpoint), data)
        return Work()
    stop = stop_of(trainer.callback_handler.callbacks)
    at_once = stop is not None and trainer.args.world_size == 1
    if trainer.is_world_process_zero():
        pairs = sum(len(dataset) for dataset in data.values())
        trainer.say(f"the reference, the model as it is, scores {pairs} pairs once")
    with (
        stop.at_once() if stop is not None and at_once else contextlib.nullcontext(),
        trainer._watchdog.during(EVALUATING),
    ):
        work: Work = trainer.reference.begin(trainer.model, data)
        return work


def answers_only(engine: Engine) -> Engine:
    """The same engine without logits where only an NLL of the prompt would ask for them."""
    if isinstance(engine, ApartEngine):
        return replace(engine, inner=answers_only(engine.inner))
    if isinstance(engine, SharedEngine | PaddedEngine):
        return replace(engine, nll_scope="completion")
    return engine


@torch.no_grad()
def ask(trainer: Any, dataset: datasets.Dataset) -> tuple[Tensor, Work]:
    """Summed log-probabilities of every answer by a trainer's model as it is."""
    rank, ranks = trainer.args.process_index, trainer.args.world_size
    engine, work = answers_only(trainer.engine), Work()

    def score(part: Batch) -> Tensor:
        nonlocal work
        with trainer.accelerator.autocast():
            output = engine(model, part, _nothing)
        work += scored(output)
        trainer._watchdog.beat()
        return torch.stack([output.logps.chosen_sum, output.logps.rejected_sum], dim=1)

    own: list[tuple[list[int], Tensor]] = []
    bar = under_way("asking the reference", len(dataset))
    with scoring(trainer), on_trial(trainer.model), bar as advance:
        model = trainer.model_wrapped
        for indices in _shares(len(dataset), rank, ranks):
            batch = trainer.data_collator([dataset[i] for i in indices])
            found = score_batch(trainer, trainer._prepare_inputs(batch), score)
            own.append((indices, found.double().cpu()))
            advance(len(indices) * ranks)
    sums = torch.empty(len(dataset), 2, dtype=torch.float64)
    for indices, found in (part for parts in gathered(own, ranks) for part in parts):
        sums[indices] = found
    return sums, work


def _shares(count: int, rank: int, ranks: int) -> Iterator[list[int]]:
    """Indices by batch, as many batches on every rank; the last pair fills up what is missing."""
    together = _TOGETHER * ranks
    for start in range(0, count, together):
        yield [min(i, count - 1) for i in range(start + rank, start + together, ranks)][
            : math.ceil((count - start) / ranks)
        ]


def _nothing(logps: PairLogps) -> Tensor:
    """No loss is wanted."""
    return logps.nll_sum.new_zeros(())
