"""Held-out pairs, scored by a model, and what kinds of pairs they are.

facts = row_facts(rows)                       by length, language, source, category and turns
metrics, pairs = score_pairs(trainer, facts)  log-probabilities are kept, logits never
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from transformers import EvalPrediction

from orpo.audit.faults import view
from orpo.audit.texts import script_of
from orpo.data.reading import PairReaders, is_tokenised
from orpo.data.types import Dropped, Row
from orpo.errors import DataError
from orpo.evaluate.intervals import Floats
from orpo.objective.log_odds import log_odds
from orpo.runs.files import SCORES, read_jsonl, write_jsonl
from orpo.train.trainer import ORPOTrainer

Lengths: TypeAlias = Mapping[int, tuple[int, int]]
"""Row -> tokens of its chosen and of its rejected answer."""

_KINDS = (
    "longer answer",  # in tokens
    "length",  # tokens of both answers together, in quarters
    "language",  # the column `language`, or else the script of the prompt
    "source",  # the column `source`, or else the file
    "category",  # the first of `_CATEGORIES`
    "turns",  # of the user in the prompt
)
_CATEGORIES = ("category", "topic", "subset", "task", "domain")
_MOST = 20  # groups of a kind
_MANY_TURNS = 4


@dataclass(frozen=True)
class RowFacts:
    """What is known of a row beside its scores."""

    prompt: str  # stands for its prompt: equal where the words are, as the audit compares them
    groups: Mapping[str, str] = field(default_factory=dict)  # kind of group -> its group


def row_facts(
    rows: Iterable[Row], data_format: str = "", pair_rule: str = "best_worst"
) -> dict[int, RowFacts]:
    """Row index -> what is known of it; rows that cannot be read are left to who scores them."""
    read = PairReaders(data_format, "drop", pair_rule)
    facts = {}
    for row in rows:
        groups = _of_columns(row)
        if is_tokenised(row.values):
            ids = row.values.get("prompt_ids", row.values.get("prompt_input_ids"))
            text = json.dumps(list(ids or []), default=str)
            facts[row.index] = RowFacts(hashlib.sha256(text.encode()).hexdigest()[:16], groups)
        elif not isinstance(pair := read(row), Dropped):
            seen = view(pair)
            turns = str(seen.turns) if seen.turns < _MANY_TURNS else f"{_MANY_TURNS} and more"
            groups = {"language": script_of(seen.prompt).name, **groups, "turns": turns}
            facts[row.index] = RowFacts(f"{seen.question_key:016x}", groups)
    return facts


def _of_columns(row: Row) -> dict[str, str]:
    def named(column: str) -> str:
        value = row.values.get(column)
        return _shown(value) if isinstance(value, str) else ""

    groups = {
        "source": named("source") or _shown(row.where.rsplit(":", 1)[0].rsplit("/", 1)[-1]),
        "category": next(filter(None, map(named, _CATEGORIES)), ""),
        "language": named("language"),
    }
    return {kind: name for kind, name in groups.items() if name or kind == "source"}


def _shown(name: str) -> str:
    """On one line, without what would steer a terminal."""
    return "".join(c for c in " ".join(name.split()) if c.isprintable())[:80]


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs with both answers, each scored by one model; all sequences have shape (pairs,)."""

    rows: NDArray[np.int64]  # index of each pair's row in the data set
    chosen: Floats  # length-averaged log-probability of the chosen answer, finite
    rejected: Floats
    prompts: Sequence[str]  # stands for the prompt: equal prompts are one cluster
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)  # kind of group -> group
    without_rejected: int = 0  # rows that were left out: there is nothing to compare
    not_finite: int = 0  # or a log-probability is NaN or infinite

    @classmethod
    def of(
        cls, rows: Any, answers: tuple[Any, Any], facts: Mapping[int, RowFacts], lengths: Lengths
    ) -> ScoredPairs:
        """What `ORPOTrainer` predicts, in the order of the rows.

        `rows` are a prediction's `label_ids`: index of each pair's row, shape (pairs,); `answers`
        its `predictions`: log-probabilities of the chosen and of the rejected answers, NaN where
        there is no rejected one. A row without facts is a prompt of its own.
        """
        order = np.argsort(np.asarray(rows), kind="stable")
        numbers = np.asarray(rows, dtype=np.int64)[order]
        chosen, rejected = (np.asarray(one, dtype=np.float64)[order] for one in answers)
        both = np.array([lengths.get(int(n), (1, 1))[1] > 0 for n in numbers], dtype=bool)
        finite = np.isfinite(chosen) & np.isfinite(rejected)
        kept = both & finite
        numbers = numbers[kept]
        known = [facts.get(int(n), RowFacts(f"row {n}")) for n in numbers]
        return cls(
            numbers,
            chosen[kept],
            rejected[kept],
            [fact.prompt for fact in known],
            _grouped(known, [lengths.get(int(n), (0, 0)) for n in numbers]),
            int((~both).sum()),
            int((both & ~finite).sum()),
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def log_odds(self) -> Floats:
        """The log odds ratio z of each pair."""
        first, second = (log_odds(torch.from_numpy(one)) for one in (self.chosen, self.rejected))
        ratio: Floats = (first - second).numpy()
        return ratio

    @property
    def preferred(self) -> Floats:
        """1 where the chosen answer is more probable per token, else 0."""
        return (self.chosen > self.rejected).astype(np.float64)

    @property
    def account(self) -> dict[str, int]:
        """Pairs that were scored, and rows that could not be compared."""
        return {
            "pairs": len(self),
            "prompts": len(set(self.prompts)),
            "without_rejected": self.without_rejected,
            "not_finite": self.not_finite,
        }

    def take(self, places: Any) -> ScoredPairs:
        """Some of the pairs, by their places or a mask of shape (pairs,)."""
        chosen = np.arange(len(self))[places]
        return ScoredPairs(
            self.rows[chosen],
            self.chosen[chosen],
            self.rejected[chosen],
            [self.prompts[i] for i in chosen],
            {kind: [names[i] for i in chosen] for kind, names in self.groups.items()},
        )

    def of_rows(self, rows: NDArray[np.int64]) -> ScoredPairs:
        """The pairs of some of its rows, in their order."""
        place = {int(row): i for i, row in enumerate(self.rows)}
        return self.take([place[int(row)] for row in rows])


def score_pairs(
    trainer: ORPOTrainer, facts: Mapping[int, RowFacts]
) -> tuple[dict[str, float], ScoredPairs]:
    """(the metrics of `trainer.evaluate()`, the pairs with their scores), on every rank."""
    seen: list[EvalPrediction] = []
    custom = trainer.compute_metrics

    def keep(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction)
        return {} if custom is None else custom(prediction)

    trainer.compute_metrics = keep
    try:
        metrics = trainer.evaluate()
    finally:
        trainer.compute_metrics = custom
    lengths = token_counts(trainer.eval_dataset)
    return metrics, ScoredPairs.of(seen[-1].label_ids, seen[-1].predictions, facts, lengths)


def token_counts(dataset: Any) -> dict[int, tuple[int, int]]:
    """Row of a prepared data set -> tokens of its chosen and of its rejected answer, or 0."""
    table = dataset.with_format("arrow")[:]
    names = ("chosen_ids", "rejected_ids")
    counts = (pc.list_value_length(table[name]).to_pylist() for name in names)
    return dict(zip(table["row"].to_pylist(), zip(*counts, strict=True), strict=True))


def write_scores(folder: Path, scores: Mapping[str, ScoredPairs]) -> None:
    """Write scores.jsonl, one line for each pair; nothing where nothing was scored.

    {"row": 3, "prompt": "...", "before": {"chosen": -1.31, "rejected": -1.52}, "after": {...}}
    """
    lines: dict[int, dict[str, Any]] = {}
    for moment, pairs in scores.items():
        each = zip(pairs.rows.tolist(), pairs.prompts, pairs.chosen, pairs.rejected, strict=True)
        for row, prompt, chosen, rejected in each:
            line = lines.setdefault(row, {"row": row, "prompt": prompt})
            line[moment] = {"chosen": float(chosen), "rejected": float(rejected)}
    if lines:
        write_jsonl(folder / SCORES, [lines[row] for row in sorted(lines)])


def recall_scores(
    folder: Path, moment: str, facts: Mapping[int, RowFacts], dataset: Any
) -> ScoredPairs | None:
    """The scores of "before" or "after"; None if there are none, or not of just these pairs."""
    lengths = token_counts(dataset)
    try:
        lines = [line for line in read_jsonl(folder / SCORES) if moment in line]
        known = {
            int(line["row"]): (float(line[moment]["chosen"]), float(line[moment]["rejected"]))
            for line in lines
        }
    except (DataError, KeyError, TypeError, ValueError, OverflowError):
        return None  # damaged: what it would tell is left out
    if not known or not known.keys() <= lengths.keys():
        return None
    nothing = (math.nan, math.nan)
    answers = np.array([known.get(row, nothing) for row in lengths], dtype=np.float64)
    return ScoredPairs.of(np.array([*lengths]), (answers[:, 0], answers[:, 1]), facts, lengths)


def _grouped(
    facts: Sequence[RowFacts], lengths: Sequence[tuple[int, int]]
) -> dict[str, Sequence[str]]:
    """Kind -> the group of each pair; kinds that put all pairs into one group are left out."""
    longer = {0: "equally long", 1: "chosen is longer", -1: "rejected is longer"}
    kinds: dict[str, Sequence[str]] = {
        "longer answer": [longer[(c > r) - (c < r)] for c, r in lengths],
        "length": _quarters([sum(both) for both in lengths]),
    }
    for kind in _KINDS[2:]:
        kinds[kind] = _limited([fact.groups.get(kind, "not known") for fact in facts])
    return {kind: names for kind, names in kinds.items() if len(set(names)) > 1}


def _quarters(totals: Sequence[int]) -> list[str]:
    """Names of the quarters that the lengths fall into, such as "12 to 30 tokens"."""
    if not totals:
        return []
    lengths = np.asarray(totals)
    borders = np.unique(np.quantile(lengths, (0.25, 0.5, 0.75), method="inverted_cdf"))
    parts = np.searchsorted(borders, lengths)
    names = {}
    for part in np.unique(parts):
        inside = lengths[parts == part]
        low, high = int(inside.min()), int(inside.max())
        names[part] = f"{low} to {high} tokens" if low < high else f"{low} tokens"
    return [names[part] for part in parts]


def _limited(names: Sequence[str]) -> list[str]:
    """The most frequent names; what is beyond them goes under one name, and is not lost."""
    counts = Counter(names)
    if len(counts) <= _MOST:
        return list(names)
    kept = {name for name, _ in counts.most_common(_MOST - 1)}
    return [name if name in kept else "others" for name in names]
