"""DPO's reference: the model as it is before the first step, asked once for every pair.

Afterwards its log-probabilities are columns of the data, and no second model is held. "As it is"
includes an adapter that was trained before, such as by SFT; a fresh one computes what its base
does. They lie in every checkpoint, under its manifest: from the weights of a run that goes on they
could not be computed again.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from orpo.engine import ApartEngine, Engine, PaddedEngine, SharedEngine
from orpo.engine.trial import on_trial
from orpo.errors import CheckpointError, ConfigError
from orpo.objective import PairLogps
from orpo.train.columns import ReferencedPairs
from orpo.train.continuity import stop_of
from orpo.train.datasets import named_sets
from orpo.train.guards.watchdog import EVALUATING
from orpo.train.identity import data_fingerprint, weights_digest
from orpo.train.ranks import gathered
from orpo.train.scoring import score_batch
from orpo.train.work import Work, scored
from orpo.train.wrappers import scoring

if TYPE_CHECKING:
    from orpo.train.trainer import ORPOTrainer

__all__ = ["REFERENCE", "Reference", "answers_only", "ask", "begin_reference"]

Batch = dict[str, Tensor]

REFERENCE = "reference.safetensors"
"""The file of a checkpoint: data fingerprint -> (pairs, 2) float64, chosen and rejected."""
_TOGETHER = 64  # pairs that micro-batches are cut from

Ask = Callable[[datasets.Dataset], tuple[Tensor, Work]]
"""From prepared pairs to their (pairs, 2) sums, and what it took."""


@dataclass
class Reference:
    """The reference's log-probabilities of each data set.

    Attributes:
        ask: Asks the model as it is.
        sums: Data fingerprint -> (pairs, 2) float64.
        costs: Data fingerprint -> what it took.
        weights: Digest of the model that was asked; None if it has none.
        fixed: Whether training has begun: the reference is no longer at hand.
    """

    ask: Ask
    sums: dict[str, Tensor] = field(default_factory=dict)
    costs: dict[str, Work] = field(default_factory=dict)
    weights: str | None = None
    fixed: bool = False

    def begin(self, model: nn.Module, data: Mapping[str, Any]) -> Work:
        """Ask for everything that a run will need, ahead of its first step.

        Args:
            model: What is going to be trained.
            data: Name of a data set -> prepared pairs.

        Returns:
            What the first of them took; the others are evaluated on, which is not training.
        """
        self._forget_others(model)
        keys = [self._asked(dataset, name) for name, dataset in data.items()]
        self.fixed = True
        return self.costs[keys[0]]

    def go_on_from(self, checkpoint: Path, data: Mapping[str, Any]) -> None:
        """Take what a checkpoint holds.

        Raises:
            CheckpointError: It holds nothing that can be read.
            ConfigError: It was made for other data.
        """
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
        """A data set whose rows carry what the reference says.

        Raises:
            ConfigError: It was not there before training began.
        """
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


def begin_reference(trainer: ORPOTrainer, checkpoint: str | None) -> Work:
    """Have a trainer's reference ready ahead of its first step; what that took.

    Raises:
        ConfigError: It goes on from a checkpoint that was made with other data.
        StopRequested: A signal arrived while the reference was asked.
    """
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
        return trainer.reference.begin(trainer.model, data)


def answers_only(engine: Engine) -> Engine:
    """The same engine without logits where only an NLL of the prompt would ask for them."""
    if isinstance(engine, ApartEngine):
        return replace(engine, inner=answers_only(engine.inner))
    if isinstance(engine, SharedEngine | PaddedEngine):
        return replace(engine, nll_scope="completion")
    return engine


@torch.no_grad()
def ask(trainer: ORPOTrainer, dataset: datasets.Dataset) -> tuple[Tensor, Work]:
    """Summed log-probabilities of every answer by a trainer's model as it is.

    Args:
        trainer: Its model, wrapped as training or evaluation wrap it, in evaluation mode.
        dataset: Prepared pairs.

    Returns:
        (pairs, 2) float64 on the CPU, the same on all ranks; and what it took on this rank.
    """
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
    with scoring(trainer), on_trial(trainer.model):
        model = trainer.model_wrapped
        for indices in _shares(len(dataset), rank, ranks):
            batch = trainer.data_collator([dataset[i] for i in indices])
            found = score_batch(trainer, trainer._prepare_inputs(batch), score)
            own.append((indices, found.double().cpu()))
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
