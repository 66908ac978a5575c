"""From what a user passes as a data set to token ids, with an account of every row."""

import contextlib
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import datasets
import pyarrow.compute as pc
import torch
from transformers import PreTrainedTokenizerBase

from orpo.config import ORPOConfig
from orpo.data.asked import Asking, Decision, decide, keep_asked, told_of_changes
from orpo.data.lengths import LengthPolicy
from orpo.data.prepare import Preparation, StreamedPairs, is_prepared
from orpo.data.rendering import has_chat_template
from orpo.data.sources import default_cache, iterate_dataset
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import COLUMNS, Ledger, Row
from orpo.errors import ConfigError, DataError, ModelError
from orpo.settings import unused_strengths
from orpo.train.models import fit_positions, give_plain_template, prepare_tokenizer, vocabulary_size
from orpo.train.weights import rounding_notes

_STREAMS = (torch.utils.data.IterableDataset, datasets.IterableDataset)


@dataclass
class DatasetReader:
    """Prepares data sets with one tokenizer."""

    preparation: Preparation
    vocabulary: int | None
    given: dict[str, Any]
    columns: dict[str, str] = field(default_factory=dict)  # of data that are no `Row`s yet
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    decision: Decision | None = field(default=None, init=False)
    _messages_seen: bool = field(default=False, init=False)
    _seen: dict[str, Ledger] = field(default_factory=dict, init=False)

    def __call__(self, dataset: Any, name: str) -> Any:
        """A data set as token ids, or a dict of data sets as a dict of such."""
        if isinstance(dataset, dict):
            return {key: self._one(value, f"{name}[{key}]") for key, value in dataset.items()}
        return self._one(dataset, name)

    def one(self, dataset: Any, name: str) -> Any:
        """The same for an argument that must be one data set."""
        if isinstance(dataset, dict):
            what = f"expected one data set, got several ({', '.join(map(str, dataset))})"
            fix = f"Pass one of them, e.g. dataset[{next(iter(dataset), 'train')!r}]."
            raise ConfigError(what, where=name, fix=fix)
        return self._one(dataset, name)

    def settle_template(self) -> list[str]:
        """Give the tokenizer what the model is to be asked with, and say what that is.

        To be called when all data sets of a run are prepared: data that are text as well as
        messages are rendered as text where there is no template. Later calls change nothing.
        """
        template = self.preparation.tokenize.template
        notes = []
        if self._messages_seen and not has_chat_template(template.tokenizer):
            notes.append(give_plain_template(template.tokenizer))
        trained = "train_dataset" in self.ledgers
        if self.decision is None and (trained or not Asking.of(template.tokenizer).prompt):
            seen = [self._seen["train_dataset"]] if trained else self._seen.values()
            prompts = sum((ledger.after for ledger in seen), Counter[str]())
            self.decision = decide(template, prompts, self.given)
            if self.decision is not None:
                keep_asked(template.tokenizer, self.decision.asked)
                notes += self.decision.notes()
            for name, ledger in self._seen.items():
                if ledger.changed:
                    lines = told_of_changes(template, ledger.changed, ledger.kept)
                    notes += [f"{name}: {line}" for line in lines]
        return notes

    def _one(self, dataset: Any, name: str) -> Any:
        if dataset is None or is_prepared(dataset):
            return dataset
        rows = replace(_rows_of(dataset, name), columns=self.columns)
        prepared: Any
        if isinstance(dataset, _STREAMS):
            prepared, ledger = StreamedPairs(rows, self.preparation, name), Ledger(name)
            self.ledgers[name] = prepared.ledger
            next(self.preparation.stream(rows(), ledger), None)  # up to its first pair
        else:
            prepared, ledger = self.preparation(rows, name)
            self.ledgers[name] = ledger
            columns = (prepared.data.column(column) for column in COLUMNS[:3])
            largest = max(pc.max(pc.list_flatten(column)).as_py() for column in columns)
            if self.vocabulary is not None and largest >= self.vocabulary:
                raise ModelError(
                    f"token id {largest} is outside the model's vocabulary of {self.vocabulary}",
                    where=name,
                    fix="Use the model's own tokenizer, or model.resize_token_embeddings(...) "
                    "first.",
                )
        self._messages_seen |= "chat template" in ledger.rendering
        self._seen[name] = ledger
        return prepared


def reader_for(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, args: ORPOConfig
) -> tuple[DatasetReader, list[str]]:
    """What prepares the data of a run, and what was decided for it."""
    notes = prepare_tokenizer(tokenizer, args) + rounding_notes(model, args.learning_rate)
    max_length, note = fit_positions(model, args)
    lengths = LengthPolicy(max_length, args.max_prompt_length, args.truncation)
    variables = args.chat_template_kwargs
    assert isinstance(variables, dict)
    preparation = Preparation(
        PairTokenizer(tokenizer, lengths, variables),
        on_bad_row=args.on_bad_row,
        data_format=args.format_name,
        pair_rule=args.pair_rule,
        cache=None if args.data_cache == "off" else Path(args.data_cache or default_cache()),
    )
    given = {**Asking.of(tokenizer).given, **variables}
    reader = DatasetReader(preparation, vocabulary_size(model), given, args.column_names)
    return reader, notes + ([note] if note else [])


def named_sets(train: Any, evaluated: Any) -> dict[str, Any]:
    """The data sets of a run that there are, by what messages call them; training comes first."""
    parts = {"eval_dataset": evaluated}
    if isinstance(evaluated, dict):
        parts = {f"eval_dataset[{key}]": value for key, value in evaluated.items()}
    found = {"train_dataset": train, **parts}
    return {name: dataset for name, dataset in found.items() if dataset is not None}


@dataclass(frozen=True)
class _Rows:
    """The rows of a data set, from the beginning each time it is called."""

    dataset: Any
    name: str
    columns: Mapping[str, str] = field(default_factory=dict)

    def __call__(self) -> Iterator[Row]:
        rows = self.dataset
        if not isinstance(rows, Iterable):
            rows = map(rows.__getitem__, range(len(rows)))
        return iterate_dataset(rows, self.name, self.columns)

    def __iter__(self) -> Iterator[Row]:
        return self()

    def fingerprint(self) -> list[Any] | None:
        """What the rows depend on; None if the data set does not say."""
        ask = getattr(self.dataset, "fingerprint", None)
        if callable(ask):
            return cast("list[Any] | None", ask())
        known = getattr(self.dataset, "_fingerprint", None)  # of a `datasets.Dataset`
        names = [dict(self.columns)] if self.columns else []
        return [self.name, known, *names] if isinstance(known, str) else None


class EndlessPairs(torch.utils.data.IterableDataset[dict[str, Any]]):
    """A stream that starts again when it ends; max_steps says when training is over.

    An optimizer step may then reach over the end of a pass, so that every step is whole, and a
    resumed run finds its place by counting batches.
    """

    def __init__(self, pairs: StreamedPairs) -> None:
        super().__init__()
        self.pairs = pairs

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in itertools.count():
            stream: Any = getattr(self.pairs.source, "dataset", None)
            if hasattr(stream, "set_epoch"):
                stream.set_epoch(number)  # a shuffled one draws the order of its pass
            empty = True
            for pair in self.pairs:
                empty = False
                yield pair
            if empty:
                return


def _rows_of(dataset: Any, name: str) -> _Rows:
    if isinstance(dataset, str | Path):
        what = "expected a data set object, got a path or name"
        fix = "Load it first, e.g. datasets.load_dataset(...), or use `orpo train`."
        raise ConfigError(what, where=name, fix=fix)
    indexed = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, Iterator) or not (isinstance(dataset, Iterable) or indexed):
        what = f"expected a map-style or streaming data set, got {type(dataset).__name__}"
        raise DataError(what, where=name)
    return _Rows(dataset, name)


def _chosen_only(collate: Callable[[list[Any]], Any], features: list[Any]) -> Any:
    """A batch of rows without rejected answer: SFT computes none."""
    return collate([{**row, "rejected_ids": []} for row in features])


_TOGETHER = 10_000  # rows


def check_objective(args: ORPOConfig, train_dataset: Any, eval_dataset: Any) -> list[str]:
    """Whether an objective can be trained on prepared data, and what to say about it."""
    given = unused_strengths(args)
    notes = [f"{name} is not used: the objective is {args.objective}" for name in given]
    if args.objective != "dpo":
        return notes
    for name, dataset in named_sets(train_dataset, eval_dataset).items():
        if not isinstance(dataset, datasets.Dataset):
            what = "objective=dpo asks its reference once for every pair, and a stream has no end"
            raise ConfigError(what, where=name, fix="Pass a map-style data set.")
    tables = () if train_dataset is None else train_dataset.with_format("arrow").iter(_TOGETHER)
    lengths = (pc.list_value_length(table.column("rejected_ids")) for table in tables)
    alone = sum(int(pc.sum(pc.equal(each, 0)).as_py() or 0) for each in lengths)
    if alone:
        notes.append(f"{alone} rows without rejected answer teach nothing: the objective is dpo")
    return notes


@contextlib.contextmanager
def as_trained(trainer: Any) -> Iterator[None]:
    """A stream starts again when it ends; SFT takes no rejected answers, DPO asks its reference."""
    dataset, collate = trainer.train_dataset, trainer.data_collator
    objective = trainer.args.objective
    if isinstance(dataset, StreamedPairs):
        trainer.train_dataset = EndlessPairs(dataset)
    if objective == "sft":
        trainer.data_collator = functools.partial(_chosen_only, collate)
    elif objective == "dpo":
        trainer.train_dataset = trainer.reference.of(trainer.model, dataset, "train_dataset")
    try:
        yield
    finally:
        trainer.train_dataset, trainer.data_collator = dataset, collate


@contextlib.contextmanager
def as_evaluated(trainer: Any, asked: Any, name: str = "eval_dataset") -> Iterator[Any]:
    """The data set to make a loader of, with DPO's reference if that is the objective."""
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
