"""A tuning in types: what is searched, its trials, and the result in evaluation.json.

`TuningResult` is what `orpo tune` finds, its page draws, and `read_tuning` reads again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo.evaluate.intervals import Interval
from orpo.evaluate.results import Change
from orpo.experiments.comparison import ExperimentResult
from orpo.runs.files import EVALUATION
from orpo.runs.reading import read_object
from orpo.runs.typed import sometimes, typed

KIND = "tuning"
STATES = {
    "complete": "whole",
    "pruned": "given up early",
    "failed": "broken",
    "cut off": "cut off and run again",
    "running": "under way elsewhere",
}
"""State of a trial -> in words."""


@dataclass(frozen=True)
class Values:
    """The two settings that are searched for: the schedule's maximum, and lambda."""

    learning_rate: float
    orpo_alpha: float

    def __str__(self) -> str:
        return f"learning rate {self.learning_rate:.3g}, lambda {self.orpo_alpha:.3g}"


@dataclass(frozen=True)
class Space:
    """The ranges, lowest and highest, both on a logarithmic scale."""

    learning_rate: list[float]
    orpo_alpha: list[float]


@dataclass(frozen=True)
class TrialResult:
    """A trial of the study."""

    number: int  # in the study, from 0 on
    learning_rate: float
    orpo_alpha: float
    state: str  # one of STATES
    start: bool = False  # whether the search started from it
    score: float | None = None  # the mean; of one given up, at the step that it reached
    steps: int = 0
    seconds: float | None = None
    reason: str = sometimes("")  # why it failed or was cut off
    preference_accuracy: float | None = sometimes(None)
    chosen_logps: float | None = sometimes(None)
    behind_the_best: Interval | None = sometimes(None)
    near: bool | None = sometimes(None)  # whether it cannot be told apart from the best

    @property
    def values(self) -> Values:
        """What was tried."""
        return Values(self.learning_rate, self.orpo_alpha)


@dataclass(frozen=True)
class Measure:
    """What the test says of one measure: with the start, with the best, and the change."""

    start: Interval
    best: Interval
    change: Change


@dataclass(frozen=True)
class FinalTest:
    """The best trial beside the start, both trained once more, on pairs that no trial has seen."""

    key: dict[str, Any]  # what it depends on: an earlier call's test of the same stands
    seed: int
    measures: dict[str, Measure]  # score, preference_accuracy, chosen_logps, correct_answers


@dataclass(frozen=True)
class Recommendation:
    """Which values to take, and why."""

    trial: int  # number of the best one
    near: list[int]  # those that cannot be told apart from it, itself among them
    band: dict[str, list[float]]  # lowest and highest value of those, by setting
    edges: list[list[str]]  # (setting, "lowest" or "highest") at the end of its range
    band_words: str
    values: Values
    verdict: str  # better, worse, cannot be told apart, the same, not compared
    keep_start: bool  # whether `values` are what the search started from
    why: str


@dataclass(frozen=True)
class TuningResult(ExperimentResult):
    """What `orpo tune` finds; hardly anything until a trial came to its end."""

    kind: str = KIND
    storage: str = ""  # without a password; empty for the folder itself
    study: str = ""
    full_steps: int = 0  # of the recipe itself
    seed: int | None = None
    space: Space | None = None
    start: Values | None = None
    trials: list[TrialResult] = field(default_factory=list)  # the best first
    account: dict[str, int] = field(default_factory=dict)  # trials by state
    recommended: Recommendation | None = None
    comparison: FinalTest | None = None  # None without a test
    minutes: float | None = None
    finished: bool = True  # False where a signal stopped the search


def read_tuning(folder: Path) -> TuningResult:
    """What evaluation.json of a folder says, as any version wrote it."""
    path = folder / EVALUATION
    return typed(TuningResult, read_object(path), where=str(path))
