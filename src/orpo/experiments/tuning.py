"""A tuning in types: what is searched, its trials, and the result in evaluation.json.

`TuningResult` is what `orpo tune` finds, its page draws, and `read_tuning` reads again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo.evaluate.intervals import Interval
from orpo.evaluate.results import Change
from orpo.experiments.comparison import Machine
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
    """The two settings that are searched for.

    Attributes:
        learning_rate: The maximum of the schedule.
        orpo_alpha: Lambda, the strength of the preference term.
    """

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
    """A trial of the study.

    Attributes:
        number: In the study, from 0 on.
        state: One of `STATES`.
        start: Whether these are the values that the search started from.
        score: Mean score; where it was given up, at the step that it reached.
        steps: Optimizer steps that it took.
        reason: Why it failed or was cut off.
        preference_accuracy: On the pairs that trials are chosen by; None unless it is complete.
        chosen_logps: Mean log-probability of the chosen answers, likewise.
        behind_the_best: Its score less that of the best one, likewise.
        near: Whether it cannot be told apart from the best.
    """

    number: int
    learning_rate: float
    orpo_alpha: float
    state: str
    start: bool = False
    score: float | None = None
    steps: int = 0
    seconds: float | None = None
    reason: str = sometimes("")
    preference_accuracy: float | None = sometimes(None)
    chosen_logps: float | None = sometimes(None)
    behind_the_best: Interval | None = sometimes(None)
    near: bool | None = sometimes(None)

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
    """The best trial beside the start, both trained once more, on pairs that no trial has seen.

    Attributes:
        key: What it depends on: an earlier call's test of the same recipes stands.
        seed: Of both runs.
        measures: "score", "preference_accuracy", "chosen_logps", "correct_answers" -> figures.
    """

    key: dict[str, Any]
    seed: int
    measures: dict[str, Measure]


@dataclass(frozen=True)
class Recommendation:
    """Which values to take, and why.

    Attributes:
        trial: Number of the best one.
        near: Numbers of those that cannot be told apart from it, itself among them.
        band: Setting -> lowest and highest value of those.
        edges: (setting, "lowest" or "highest") where the best lies at the end of its range.
        band_words: The band as a sentence has it.
        values: What is recommended.
        verdict: "better", "worse", "cannot be told apart", "the same" or "not compared".
        keep_start: Whether that is what the search started from.
        why: A sentence.
    """

    trial: int
    near: list[int]
    band: dict[str, list[float]]
    edges: list[list[str]]
    band_words: str
    values: Values
    verdict: str
    keep_start: bool
    why: str


@dataclass(frozen=True)
class TuningResult:
    """What evaluation.json holds of a tuning; hardly anything until a trial has come to its end.

    Attributes:
        settings: What may not differ between the trials of the study.
        storage: Where the study is, without a password; empty for the folder itself.
        steps: Optimizer steps of a trial.
        full_steps: Those that the recipe itself takes.
        batch: Pairs of a step.
        held_out: Rows of "train", "choosing" and "test", and "prompts" of those to choose by.
        trials: The best first, then those that were given up, and what broke.
        account: State -> trials.
        comparison: The test; None without one.
        finished: False where a signal stopped the search.
    """

    kind: str = KIND
    settings: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    dataset: str = ""
    storage: str = ""
    study: str = ""
    command: str = "orpo tune"
    steps: int = 0
    full_steps: int = 0
    batch: int = 0
    seed: int | None = None
    held_out: dict[str, int] = field(default_factory=dict)
    space: Space | None = None
    start: Values | None = None
    trials: list[TrialResult] = field(default_factory=list)
    account: dict[str, int] = field(default_factory=dict)
    recommended: Recommendation | None = None
    comparison: FinalTest | None = None
    checked: bool = False
    minutes: float | None = None
    machine: Machine | None = None
    versions: dict[str, str] = field(default_factory=dict)
    finished: bool = True
    seconds: float | None = None


def read_tuning(folder: Path) -> TuningResult:
    """What evaluation.json of a folder says, as any version wrote it.

    Raises:
        DataError: It cannot be read, or a field is of another type.
    """
    path = folder / EVALUATION
    return typed(TuningResult, read_object(path), where=str(path))
