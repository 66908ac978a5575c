"""From trials to a recommendation: the best one, and which others cannot be told apart from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orpo.evaluate.intervals import Interval, paired_interval
from orpo.jobs.tune.score import pair_scores
from orpo.jobs.tune.spec import Space
from orpo.jobs.tune.study import Tried

__all__ = ["Choice", "choose", "told_trials"]

_AT_THE_EDGE = 1.2
"""As a factor: what lies as near to the end of a range may go on beyond it."""


@dataclass(frozen=True)
class Choice:
    """What the trials say.

    Attributes:
        best: The trial with the highest score.
        behind: Number of a finished trial -> the interval of its score less the best one's.
        near: Trials that cannot be told apart from the best, itself among them.
    """

    best: Tried
    behind: Mapping[int, Interval]
    near: tuple[Tried, ...]

    @property
    def band(self) -> dict[str, tuple[float, float]]:
        """Setting -> lowest and highest value of the trials that cannot be told apart."""
        return {
            name: (min(values), max(values))
            for name in ("learning_rate", "orpo_alpha")
            for values in [[getattr(one.values, name) for one in self.near]]
        }

    def edges(self, space: Space) -> list[tuple[str, str]]:
        """(setting, "lowest" or "highest") where the best trial lies at the end of the range."""
        found = []
        for name, (low, high) in vars(space).items():
            value = getattr(self.best.values, name)
            if value <= low * _AT_THE_EDGE:
                found.append((name, "lowest"))
            elif value >= high / _AT_THE_EDGE:
                found.append((name, "highest"))
        return found


def choose(tried: Sequence[Tried], prompts: Sequence[str]) -> Choice | None:
    """The best trial, and its neighbours by a paired interval over prompts.

    Args:
        tried: All trials.
        prompts: The prompt of each held-out pair that trials are chosen by.

    Returns:
        None where no trial came to its end.
    """
    whole = [one for one in tried if one.state == "complete" and one.score is not None]
    if not whole:
        return None
    best = max(whole, key=lambda one: (one.score or 0.0, -one.number))
    behind = {one.number: _behind(best, one, prompts) for one in whole}
    near = tuple(one for one in whole if behind[one.number].high >= 0)
    return Choice(best, behind, near)


def told_trials(tried: Sequence[Tried], choice: Choice | None) -> list[dict[str, Any]]:
    """Every trial for JSON: the best first, then those that were given up, and what broke."""
    order = {"complete": 0, "pruned": 1, "running": 2, "failed": 3, "cut off": 4}

    def place(one: Tried) -> tuple[int, float, int]:
        score = -(one.score or 0.0) if one.state == "complete" else -one.reached
        return order[one.state], score, one.number

    return [_told(one, choice) for one in sorted(tried, key=place)]


def _told(one: Tried, choice: Choice | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "number": one.number,
        **one.values.as_dict(),
        "state": one.state,
        "start": one.start,
        "score": one.score,
        "steps": one.reached,
        "seconds": one.seconds,
    }
    if one.reason:
        told["reason"] = one.reason
    if one.state != "complete" or choice is None:
        return told
    chosen, rejected = np.array(one.chosen), np.array(one.rejected)
    return {
        **told,
        "preference_accuracy": float((chosen > rejected).mean()),
        "chosen_logps": float(chosen.mean()),
        "behind_the_best": choice.behind[one.number].as_dict(),
        "near": one in choice.near,
    }


def _behind(best: Tried, one: Tried, prompts: Sequence[str]) -> Interval:
    first, second = (pair_scores(t.chosen, t.rejected).tolist() for t in (best, one))
    return paired_interval(first, second, list(prompts))
