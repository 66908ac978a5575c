"""A comparison and a tuning in types: runs, what was measured, and the result in evaluation.json.

Two budgets of a comparison: as many optimizer steps, or as many floating-point operations, as
ORPO's run takes. SFT+DPO divides either between its stages so that both take equally many steps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo.evaluate.intervals import Interval
from orpo.evaluate.results import Change
from orpo.runs.files import EVALUATION
from orpo.runs.reading import read_object
from orpo.runs.typed import sometimes, typed

COMPARISON, TUNING = "comparison", "tuning"
SMALLEST = 0.01
"""The smallest difference that counts: a point of a share, 1 % of a token's probability."""
_UNKNOWN = {"null": math.nan}  # JSON knows no NaN
BASE = "base"
BUDGETS = {"steps": "equal optimizer steps", "flops": "equal FLOPs"}
"""In words."""
STAGES: Mapping[str, tuple[str, ...]] = {
    "orpo": ("orpo",),
    "sft": ("sft",),
    "sft+dpo": ("sft", "dpo"),
}
"""Method -> the objective of each of its stages, in order."""
METHODS = tuple(STAGES)
STATES = {
    "complete": "whole",
    "pruned": "given up early",
    "failed": "broken",
    "cut off": "cut off and run again",
    "running": "under way elsewhere",
}
"""State of a trial -> in words."""


@dataclass(frozen=True)
class Stage:
    """One training run of an arm."""

    objective: str
    steps: int
    folder: str  # within the comparison's
    start: str = ""  # folder of the model it starts from; empty for the base


@dataclass(frozen=True)
class Arm:
    """One method, trained once, in the folder of its name; its last stage holds its model."""

    name: str
    method: str
    budget: str  # ORPO's run is the measure of both
    seed: int  # of the order of the data, and of an adapter's first weights
    stages: list[Stage]


@dataclass(frozen=True)
class Cost:
    """What a training stage cost, as counted and measured in its own process."""

    objective: str
    steps: int
    pairs: int
    forwards_trained: int  # answers that went forward and backward, each with its prompt
    forwards_scored: int  # answers that went forward only: DPO's reference
    flops: float  # of both
    seconds: float  # of the steps and what they need before them; no evaluation, no loading
    idle_bytes: int  # at rest, the model loaded
    peak_bytes: int  # from there to the end of the training

    @property
    def forwards(self) -> int:
        """Answers that went forward, with or without a way back."""
        return self.forwards_trained + self.forwards_scored


@dataclass(frozen=True)
class Outcome:
    """A held-out pair, l(y) of both its answers per token, and what a model made of its prompt."""

    row: int  # index in the held-out data
    prompt: str  # in words, its turns named
    chosen_logps: float = field(metadata=_UNKNOWN)
    rejected_logps: float = field(metadata=_UNKNOWN)
    answer: str | None = None  # None if it was not asked
    correct: bool | None = None  # the checker's word; None without one
    reason: str = ""
    chosen: str = ""  # the preferred answer, where there is an answer beside it

    @property
    def prefers_chosen(self) -> float:
        """1 where the chosen answer is more probable per token, 1/2 for a tie, 0 otherwise."""
        if not math.isfinite(self.chosen_logps - self.rejected_logps):
            return math.nan
        if self.chosen_logps == self.rejected_logps:
            return 0.5
        return float(self.chosen_logps > self.rejected_logps)


@dataclass(frozen=True)
class Work:
    """Means over seeds."""

    steps: float
    pairs: float
    forwards: float
    flops: float
    seconds: float
    peak_bytes: float


@dataclass(frozen=True)
class StageCost(Work):
    """A stage's cost as a mean over seeds; see `Cost`."""

    objective: str
    idle_bytes: float
    forwards_scored: float


@dataclass(frozen=True)
class MethodCost(Work):
    """All stages of a method, as means over seeds: sums, but of memory the largest stage's."""

    stages: list[StageCost]
    peak_bytes_by_seed: list[int]
    beyond_idle_bytes: float
    seconds_by_seed: list[float]


@dataclass(frozen=True)
class MethodResult:
    """A row of the table: means over seeds and held-out pairs, and what changed from the base."""

    method: str  # one of METHODS, or BASE, which has no budget, no costs and one run
    budget: str
    seeds: list[int]
    pairs: int
    preference_accuracy: Interval | None = None
    preference_accuracy_change: Interval | None = None
    correct_answers: Interval | None = None
    correct_answers_change: Interval | None = None
    chosen_logps: Interval | None = None
    chosen_logps_change: Interval | None = None
    rejected_logps: Interval | None = None
    rejected_logps_change: Interval | None = None
    margin: Interval | None = None
    margin_change: Interval | None = None
    judged: Interval | None = None  # how often a judge preferred its answers to the base model's
    cost: MethodCost | None = None
    verdict: str = sometimes("")  # of its worst run: "worse" or "doubtful"; else empty
    against: list[str] = sometimes(list)  # what broke in it

    @property
    def learned(self) -> bool:
        """Whether anything changed on the held-out pairs that is large enough to count."""
        names = ("preference_accuracy", "chosen_logps", "rejected_logps", "margin")
        changes = (getattr(self, f"{name}_change") for name in names)
        return any(one and one.told("more", "less", "", SMALLEST) for one in changes)


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and what became of it."""

    name: str
    budget: str  # empty where it is the same under all
    claim: str
    verdict: str  # "reproduced", "not reproduced" or "undecided"
    evidence: str  # the figures, in words
    interval: Interval | None = None  # of the difference that decides, if one does


@dataclass(frozen=True)
class Point:
    """Held-out log-probabilities per token; steps are counted over all stages of a run."""

    step: int
    chosen: float
    rejected: float


@dataclass(frozen=True)
class Curve:
    """What a stage of a run made of the held-out answers as it went on."""

    method: str
    budget: str
    seed: int
    objective: str
    points: list[Point]


@dataclass(frozen=True)
class Cell:
    """A short run of the sensitivity grid: settings, cost, and means over held-out pairs."""

    objective: str
    learning_rate: float
    orpo_alpha: float | None
    pairs: int
    cost: Cost
    name: str = ""
    preference_accuracy: float | None = None
    correct_answers: float | None = None
    chosen_logps: float | None = None
    rejected_logps: float | None = None
    margin: float | None = None
    preference_accuracy_interval: Interval | None = None


@dataclass(frozen=True)
class RunResult(Arm):
    """A run of the comparison, with the command lines that take its stages."""

    costs: list[Cost]
    preference_accuracy: float | None
    correct_answers: float | None
    commands: list[str]


@dataclass(frozen=True)
class Answer:
    """A model's answer."""

    name: str
    answer: str | None
    correct: bool | None = None  # the checker's word; None without one
    reason: str = ""


@dataclass(frozen=True)
class Example:
    """A held-out prompt with every model's answer."""

    prompt: str
    answers: list[Answer]


@dataclass(frozen=True)
class Examples:
    """Some prompts with answers, and how they were picked."""

    rule: str = ""
    examples: list[Example] = field(default_factory=list)


@dataclass(frozen=True)
class Machine:
    """Where runs took place: so many at a time, with so many threads each."""

    device: str
    processor: str = ""
    threads: int = 1
    at_once: int = 1


@dataclass(frozen=True)
class ExperimentResult:
    """What evaluation.json holds of a comparison and of a tuning."""

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)  # may not differ between runs
    model: str = ""
    dataset: str = ""
    command: str = ""
    steps: int = 0  # of ORPO's run, or of a trial
    batch: int = 0  # pairs of a step
    checked: bool = False
    held_out: dict[str, Any] = field(default_factory=dict)  # accounts of rows by side
    machine: Machine | None = None
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None  # of the last call
    evidence: bool | None = None  # whether anything may be decided; None in older files
    lacking: list[str] = field(default_factory=list)  # why not


@dataclass(frozen=True)
class ComparisonResult(ExperimentResult):
    """What `orpo compare` finds; the settings alone while it is not finished."""

    kind: str = COMPARISON
    methods: list[str] = field(default_factory=list)
    budgets: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    learning_rates: dict[str, float] = field(default_factory=dict)  # by objective
    orpo_alpha: float | None = None
    dpo_beta: float | None = None
    answered: int = 0  # prompts that each model answered
    table: list[MethodResult] = field(default_factory=list)  # the base model first
    claims: list[Claim] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    sensitivity: list[Cell] = field(default_factory=list)
    runs: list[RunResult] = field(default_factory=list)
    examples: Examples = Examples()
    judge: dict[str, Any] = field(default_factory=dict)  # settings, canaries, bias and cost
    broken: dict[str, str] = sometimes(dict)  # runs that did not come to their end, and why


# A tuning


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
    # of each held-out pair, where it came to its end; kept in the study alone
    chosen: Sequence[float] = sometimes(())
    rejected: Sequence[float] = sometimes(())

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
    seeds: list[int] = sometimes(list)  # of both; older files have one
    against: list[str] = sometimes(list)  # what broke in the best one's models, beside the start's
    measures: dict[str, Measure] = field(
        default_factory=dict
    )  # score, preference_accuracy, chosen_logps, correct_answers


@dataclass(frozen=True)
class Recommendation:
    """Which values to take, and why."""

    trial: int  # number of the best one
    near: list[int]  # those that cannot be told apart from it, itself among them
    band: dict[str, list[float]]  # lowest and highest value of those, by setting
    edges: list[list[str]]  # (setting, "lowest" or "highest") at the end of its range
    band_words: str
    values: Values
    verdict: str  # better, worse, cannot be told apart, the same, not compared, no evidence
    keep_start: bool  # whether `values` are what the search started from
    why: str


@dataclass(frozen=True)
class TuningResult(ExperimentResult):
    """What `orpo tune` finds; hardly anything until a trial came to its end."""

    kind: str = TUNING
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
