"""What kinds of pairs there are: by length, language, source, category and turns."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from orpo.audit.scripts import script_of
from orpo.audit.views import view
from orpo.data import Dropped, Row
from orpo.data.reading import PairReaders
from orpo.data.token_columns import is_tokenised

__all__ = ["KINDS", "RowFacts", "grouped", "row_facts"]

KINDS = {
    "longer answer": "which answer is longer, in tokens",
    "length": "tokens of both answers together, in quarters",
    "language": "the column `language`, or else the script of the prompt",
    "source": "the column `source`, or else the file",
    "category": "the first of the columns `category`, `topic`, `subset`, `task` and `domain`",
    "turns": "turns of the user in the prompt",
}
"""Kind of group -> what makes it out."""

_CATEGORIES = ("category", "topic", "subset", "task", "domain")
_MOST = 20
_MANY_TURNS = 4
_OTHERS = "others"


@dataclass(frozen=True)
class RowFacts:
    """What is known of a row beside its scores.

    Attributes:
        prompt: Stands for its prompt: equal where the words are, as the audit compares them.
        groups: Kind of group -> its group.
    """

    prompt: str
    groups: Mapping[str, str] = field(default_factory=dict)


def row_facts(
    rows: Iterable[Row], data_format: str = "", pair_rule: str = "best_worst"
) -> dict[int, RowFacts]:
    """Row index -> what is known of it; rows that cannot be read are left to who scores them.

    Args:
        rows: The data set, as it was read.
        data_format: Name of its format; recognised if empty.
        pair_rule: How a pair is chosen from a list of scored answers.
    """
    read = PairReaders(data_format, "drop", pair_rule)
    facts = {}
    for row in rows:
        found = _tokenised(row) if is_tokenised(row.values) else _spoken(row, read)
        if found is not None:
            facts[row.index] = found
    return facts


def grouped(
    facts: Sequence[RowFacts], lengths: Sequence[tuple[int, int]]
) -> dict[str, Sequence[str]]:
    """Kind -> the group of each pair; kinds that put all pairs into one group are left out.

    Args:
        facts: What is known of each pair.
        lengths: Tokens of its chosen and of its rejected answer.
    """
    kinds: dict[str, Sequence[str]] = {
        "longer answer": [_longer(*both) for both in lengths],
        "length": _quarters([sum(both) for both in lengths]),
    }
    for kind in KINDS:
        if kind not in kinds:
            kinds[kind] = _limited([fact.groups.get(kind, "not known") for fact in facts])
    return {kind: names for kind, names in kinds.items() if len(set(names)) > 1}


def _spoken(row: Row, read: PairReaders) -> RowFacts | None:
    pair = read(row)
    if isinstance(pair, Dropped):
        return None
    seen = view(pair)
    turns = str(seen.turns) if seen.turns < _MANY_TURNS else f"{_MANY_TURNS} and more"
    language = _named(row, "language") or script_of(seen.prompt).name
    return RowFacts(
        f"{seen.question_key:016x}", {**_of_columns(row), "language": language, "turns": turns}
    )


def _tokenised(row: Row) -> RowFacts:
    ids = row.values.get("prompt_ids", row.values.get("prompt_input_ids"))
    text = json.dumps(list(ids or []), default=str)
    return RowFacts(hashlib.sha256(text.encode()).hexdigest()[:16], _of_columns(row))


def _of_columns(row: Row) -> dict[str, str]:
    file = row.where.rsplit(":", 1)[0].rsplit("/", 1)[-1]
    groups = {"source": _named(row, "source") or _shown(file)}
    category = next(filter(None, (_named(row, name) for name in _CATEGORIES)), "")
    language = _named(row, "language")
    return (
        groups
        | ({"category": category} if category else {})
        | ({"language": language} if language else {})
    )


def _named(row: Row, column: str) -> str:
    value = row.values.get(column)
    return _shown(value) if isinstance(value, str) else ""


def _shown(name: str) -> str:
    """On one line, without what would steer a terminal."""
    return "".join(c for c in " ".join(name.split()) if c.isprintable())[:80]


def _longer(chosen: int, rejected: int) -> str:
    if chosen == rejected:
        return "equally long"
    return "chosen is longer" if chosen > rejected else "rejected is longer"


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
    return [name if name in kept else _OTHERS for name in names]
