"""Rows and prompts that nearly repeat others, found as the audit finds them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from orpo.audit.leakage import SIMILAR_PROMPT
from orpo.audit.near import (
    FEW_WORDS,
    NearDuplicates,
    WordWeights,
    candidate_pairs,
    similarity,
)
from orpo.audit.repair.entries import Entry
from orpo.audit.shingles import (
    Signatures,
    WordStore,
    minhash_available,
    shingles,
    words,
)
from orpo.audit.views import PairView
from orpo.data.split import prompt_key
from orpo.errors import ConfigError

__all__ = ["drop_nearly_repeated", "near_prompts", "require_minhash"]

_WORDS = 256


def require_minhash() -> None:
    """Refuse early where the library that makes MinHash signatures is missing.

    Raises:
        ConfigError: It is not installed.
    """
    if not minhash_available():
        raise ConfigError(
            "near duplicates need the package datasketch",
            where="--deduplicate near",
            fix="pip install 'orpo[data]', or use --deduplicate exact.",
        )


def drop_nearly_repeated(rows: Iterable[tuple[Entry, PairView]]) -> int:
    """Drop rows that say nearly the same as an earlier one, in prompt and answers.

    Args:
        rows: The rows that are kept so far, with their texts; the texts are read once.

    Returns:
        How many were dropped.
    """
    finder, added = NearDuplicates(), list[Entry]()
    for entry, seen in rows:
        finder.add(seen)
        if len(finder._places) > len(added):  # rows without words, or beyond its limit, are not
            added.append(entry)
    copies = finder.copies()
    for row, earlier in copies:
        added[row].drop("near_duplicate", f"nearly repeats {added[earlier].where}")
    return len(copies)


def near_prompts(rows: Iterable[tuple[Entry, PairView]]) -> dict[int, int]:
    """Prompt -> the prompt that stands for all that resemble it, directly or through others."""
    signatures, asked, weights = Signatures(), WordStore(), WordWeights()
    groups: dict[int, int] = {}
    for _, seen in rows:
        group, said = prompt_key(seen.prompt), words(seen.prompt, _WORDS, from_end=True)
        if group in groups or len(said) < FEW_WORDS:
            continue
        groups[group] = len(groups)
        signatures.add(shingles(said))
        asked.add(said)
        weights.count(np.unique(said))
    if not groups:
        return {}
    clusters = _Clusters(len(groups))
    for one, two in candidate_pairs(signatures).tolist():
        if similarity(asked[one], asked[two], weights) >= SIMILAR_PROMPT:
            clusters.join(one, two)
    names = list(groups)
    return {group: names[clusters.first_of(number)] for group, number in groups.items()}


class _Clusters:
    """Which numbers belong together."""

    def __init__(self, size: int) -> None:
        self._above = list(range(size))

    def first_of(self, number: int) -> int:
        """The smallest number of a cluster."""
        while self._above[number] != number:
            self._above[number] = self._above[self._above[number]]
            number = self._above[number]
        return number

    def join(self, one: int, two: int) -> None:
        """Put two clusters together."""
        one, two = self.first_of(one), self.first_of(two)
        self._above[max(one, two)] = min(one, two)
