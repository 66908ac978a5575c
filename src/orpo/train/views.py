"""What a trainer's data sets look like to its objective, while their loaders are made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import datasets
import pyarrow.compute as pc

from orpo.config import ORPOConfig
from orpo.data import StreamedPairs
from orpo.errors import ConfigError
from orpo.train.columns import ChosenOnly
from orpo.train.datasets import EndlessPairs, named_sets

if TYPE_CHECKING:
    from orpo.train.trainer import ORPOTrainer

__all__ = ["as_evaluated", "as_trained", "check_objective"]

_TOGETHER = 10_000  # rows


def check_objective(args: ORPOConfig, train_dataset: Any, eval_dataset: Any) -> list[str]:
    """Whether an objective can be trained on prepared data, and what to say about it.

    Raises:
        ConfigError: DPO on a stream: its reference is asked once for every pair.
    """
    given = args.unused_strengths
    notes = [f"{name} is not used: the objective is {args.objective}" for name in given]
    if args.objective != "dpo":
        return notes
    for name, dataset in named_sets(train_dataset, eval_dataset).items():
        if not isinstance(dataset, datasets.Dataset):
            raise ConfigError(
                "objective=dpo asks its reference once for every pair, and a stream has no end",
                where=name,
                fix="Pass a map-style data set.",
            )
    alone = 0 if train_dataset is None else _without_rejected(train_dataset)
    if alone:
        notes.append(f"{alone} rows without rejected answer teach nothing: the objective is dpo")
    return notes


def _without_rejected(pairs: datasets.Dataset) -> int:
    """Rows that have no rejected answer."""
    tables = pairs.with_format("arrow").iter(_TOGETHER)
    lengths = (pc.list_value_length(table.column("rejected_ids")) for table in tables)
    return sum(int(pc.sum(pc.equal(each, 0)).as_py() or 0) for each in lengths)


@contextlib.contextmanager
def as_trained(trainer: ORPOTrainer) -> Iterator[None]:
    """A stream starts again when it ends; SFT takes no rejected answers, DPO asks its reference."""
    dataset, collate, objective = (
        trainer.train_dataset,
        trainer.data_collator,
        trainer.args.objective,
    )
    if isinstance(dataset, StreamedPairs):
        trainer.train_dataset = EndlessPairs(dataset)
    if objective == "sft":
        trainer.data_collator = ChosenOnly(collate)
    elif objective == "dpo":
        trainer.train_dataset = trainer.reference.of(trainer.model, dataset, "train_dataset")
    try:
        yield
    finally:
        trainer.train_dataset, trainer.data_collator = dataset, collate


@contextlib.contextmanager
def as_evaluated(trainer: ORPOTrainer, asked: Any, name: str = "eval_dataset") -> Iterator[Any]:
    """The data set to make a loader of, with DPO's reference if that is the objective.

    Args:
        trainer: Its `eval_dataset` is meant where none is given.
        asked: Prepared pairs, the name of one of several data sets, or None.
        name: What messages call it.
    """
    if trainer.args.objective != "dpo":
        yield asked
        return
    given: Any = trainer.eval_dataset
    if asked is not None and not isinstance(asked, str):
        yield trainer.reference.of(trainer.model, asked, name)
        return
    one = trainer.reference.of(trainer.model, given if asked is None else given[asked], name)
    trainer.eval_dataset = one if asked is None else {**given, asked: one}
    try:
        yield asked
    finally:
        trainer.eval_dataset = given
