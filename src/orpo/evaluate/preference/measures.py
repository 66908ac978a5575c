"""The numbers on held-out pairs, each with its interval, in all and by group; what has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orpo.evaluate.intervals import Interval, mean_interval, paired_interval
from orpo.evaluate.preference.calibration import calibration
from orpo.evaluate.preference.pairs import ScoredPairs
from orpo.evaluate.preference.verdicts import change_of, told

__all__ = ["METRICS", "compare", "measure"]

Values: TypeAlias = Callable[[ScoredPairs], NDArray[np.float64]]

METRICS: dict[str, Values] = {
    "preference_accuracy": lambda pairs: pairs.preferred,
    "logps/margin": lambda pairs: pairs.chosen - pairs.rejected,
    "log_odds_chosen": lambda pairs: pairs.log_odds,
    "logps/chosen": lambda pairs: pairs.chosen,
    "logps/rejected": lambda pairs: pairs.rejected,
}
"""Name -> its value for each pair: whether the chosen answer is preferred, the difference of the
average log-probabilities, the log odds ratio, and the average log-probabilities themselves."""

_OF_GROUPS = ("preference_accuracy", "logps/margin", "log_odds_chosen")
_SHARES = {"preference_accuracy"}
_NEITHER_GOOD_NOR_BAD = {"logps/chosen", "logps/rejected"}
_DRAWS = 2000
_DRAWS_OF_A_GROUP = 1000


def measure(pairs: ScoredPairs) -> dict[str, Any]:
    """What one model does on the pairs.

    Returns:
        intervals {metric: interval}, calibration, groups {kind: {group: {n, clusters, and some of
        the metrics}}}, and the account of rows; without pairs, the account alone.
    """
    if not len(pairs):
        return {"account": pairs.account}
    return {
        "intervals": {name: _interval(name, pairs, _DRAWS).as_dict() for name in METRICS},
        "calibration": calibration(pairs),
        "groups": {
            kind: {name: _of_group(part) for name, part in _parts(pairs, kind)}
            for kind in pairs.groups
        },
        "account": pairs.account,
    }


def compare(before: ScoredPairs, after: ScoredPairs) -> dict[str, Any]:
    """What has changed on the pairs that both models scored.

    Args:
        before: Scores of the one model.
        after: Scores of the other; the groups are its own.

    Returns:
        changes {metric: change}, changes_by {kind: {group: {metric: change}}}, verdict, and
        compared: the number of pairs; without common pairs, the last alone.
    """
    rows = np.intersect1d(before.rows, after.rows)
    if not len(rows):
        return {"compared": 0}
    old, new = before.of_rows(rows), after.of_rows(rows)
    changes = {name: _change(name, old, new, _DRAWS) for name in METRICS}
    share = _interval("preference_accuracy", new, _DRAWS).as_dict()
    return {
        "changes": changes,
        "changes_by": {
            kind: {
                name: _changes_of_group(old.of_rows(part.rows), part)
                for name, part in _parts(new, kind)
            }
            for kind in new.groups
        },
        "verdict": told(share, changes["preference_accuracy"]),
        "compared": len(rows),
    }


def _parts(pairs: ScoredPairs, kind: str) -> list[tuple[str, ScoredPairs]]:
    """The groups of a kind: quarters of length by length, others by size."""
    names = np.asarray(pairs.groups[kind])
    found, counts = np.unique(names, return_counts=True)
    sizes = dict(zip(found.tolist(), counts.tolist(), strict=True))

    def place(name: str) -> Any:
        first = name.split(" ", 1)[0]
        return int(first) if kind in {"length", "turns"} and first.isdigit() else -sizes[name]

    return [(name, pairs.take(names == name)) for name in sorted(sizes, key=place)]


def _interval(name: str, pairs: ScoredPairs, draws: int) -> Interval:
    values, share = METRICS[name](pairs), name in _SHARES
    return mean_interval(values.tolist(), list(pairs.prompts), draws=draws, share=share)


def _change(name: str, old: ScoredPairs, new: ScoredPairs, draws: int) -> dict[str, Any]:
    before, after = (METRICS[name](pairs).tolist() for pairs in (old, new))
    prompts, share = list(new.prompts), name in _SHARES
    interval = paired_interval(before, after, prompts, draws=draws, share=share)
    words = ("higher", "lower") if name in _NEITHER_GOOD_NOR_BAD else ("better", "worse")
    return change_of(interval, words)


def _of_group(part: ScoredPairs) -> dict[str, Any]:
    found = {name: _interval(name, part, _DRAWS_OF_A_GROUP).as_dict() for name in _OF_GROUPS}
    return {"n": len(part), "clusters": len(set(part.prompts)), **found}


def _changes_of_group(old: ScoredPairs, new: ScoredPairs) -> dict[str, Any]:
    return {name: _change(name, old, new, _DRAWS_OF_A_GROUP) for name in _OF_GROUPS}
