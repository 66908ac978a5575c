"""What evaluations find: what evaluation.json holds, a page shows and a command prints.

One dataclass for each kind of evaluation, made of smaller ones; `orpo.runs.typed` turns them into
JSON and back. Nothing here is computed, and nothing heavy is imported.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orpo.evaluate.intervals import Interval
from orpo.evaluate.judge.canaries import Trust
from orpo.evaluate.judge.replies import Spend
from orpo.runs.typed import inline, plain, sometimes

Counts = dict[str, int]
Sources = Mapping[str, Mapping[str, str]]
"""File of a benchmark -> {"from", "sha256"}."""


@dataclass(frozen=True)
class Change(Interval):
    """A mean change, and what it means."""

    verdict: str = ""  # such as "better", "worse" or "cannot be told"
    prompts_needed: int | None = None
    """So many would show a change of this size in four evaluations of five; None where it is told
    already, or where no number is large enough."""
    pairs_needed: int | None = None  # that so many prompts have


@dataclass(frozen=True)
class CalibrationBin:
    """Pairs on which a model is about equally sure: from `low` to `high`."""

    low: float
    high: float
    confidence: float
    right: Interval


@dataclass(frozen=True)
class Calibration:
    """How sure a model is of its preference, and how often it is right."""

    confidence: float  # mean
    right: float  # share of pairs
    ece: float  # expected calibration error
    ece_by_chance: float  # 95 % of evaluations of a perfectly calibrated model stay below
    brier: float
    bins: tuple[CalibrationBin, ...]  # those that hold pairs
    words: str  # all of it in a sentence


@dataclass(frozen=True)
class PairGroup:
    """Pairs of one kind, with some of the metrics."""

    n: int
    clusters: int
    metrics: dict[str, Interval] = inline()


@dataclass(frozen=True)
class Preferences:
    """What a model prefers on held-out pairs, and what has changed since another one."""

    account: Counts  # pairs, prompts, rows without a rejected answer or finite log-probability
    intervals: dict[str, Interval] = sometimes(dict)  # by metric; empty where there is no pair
    calibration: Calibration | None = sometimes(None)
    groups: dict[str, dict[str, PairGroup]] = field(default_factory=dict)  # kind -> group
    changes: dict[str, Change] = sometimes(dict)  # by metric; empty where nothing was compared
    changes_by: dict[str, dict[str, dict[str, Change]]] = sometimes(dict)  # kind -> group -> metric
    verdict: str = sometimes("")  # one sentence
    compared: int | None = sometimes(None)  # pairs that both models scored


@dataclass(frozen=True)
class ScoredModel:
    """A model that has scored the pairs: its name, digests of weights and data, the engine."""

    name: str
    weights: str
    data: str
    engine: str


@dataclass(frozen=True)
class Distribution:
    """Log odds ratios of the pairs, counted between edges; the outer bins hold what is beyond."""

    edges: list[float]
    after: list[int]
    before: list[int] | None = sometimes(None)


@dataclass(frozen=True)
class WorstPair:
    """A pair whose rejected answer is preferred, with its texts where they are known."""

    row: int
    log_odds: float
    log_odds_before: float | None
    groups: dict[str, str]
    where: str = sometimes("")
    prompt: str = sometimes("")
    chosen: str = sometimes("")
    rejected: str = sometimes("")


@dataclass(frozen=True)
class PreferenceResult:
    """`orpo evaluate preference`; "after" is the model, "before" its baseline."""

    settings: dict[str, Any]
    versions: dict[str, str]
    models: dict[str, ScoredModel] = field(default_factory=dict)
    finished: bool = False
    account: dict[str, Any] = field(default_factory=dict)  # of rows, and of pairs
    notes: list[str] = field(default_factory=list)
    results: dict[str, Preferences] = field(default_factory=dict)
    distribution: Distribution | None = None
    worst: tuple[WorstPair, ...] = ()  # whose rejected answers are preferred most strongly
    kind: str = "preference"


@dataclass(frozen=True)
class WinRate:
    """How often a model's answers are preferred to a baseline's, in percent.

    Attributes:
        win_rate: Mean preference.
        standard_error: Of the win rate, over instructions.
        n: Instructions with a preference.
        n_wins: Of them, those where the model's answer is preferred.
        n_losses: Where the baseline's is.
        n_draws: Where neither is.
        discrete_win_rate: Wins and half of the draws, whatever their margin.
        unjudged: Instructions without a preference; they count in no win rate.
        interval: The win rate's, by prompt.
        lc_win_rate: As if both answers were equally long; None where `note` says why.
        lc_standard_error: As the leaderboard prints it: the spread of the predictions over
            instructions. How sure the fit is, it does not say; `lc_interval` does.
        lc_interval: The length-controlled win rate's, by prompt; None where every preference
            points the same way, which says nothing of how much length matters.
        coefficients: Of the length-controlled model, by the names of its features.
        strength: C, the inverse strength of its L1 penalty, found by cross-validation.
        note: Why something is missing, or nothing.
    """

    win_rate: float
    standard_error: float
    n: int
    n_wins: int
    n_losses: int
    n_draws: int
    discrete_win_rate: float
    unjudged: int
    interval: Interval
    lc_win_rate: float | None = None
    lc_standard_error: float | None = None
    lc_interval: Interval | None = None
    coefficients: Mapping[str, float] | None = None
    strength: float | None = None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = plain(self)
        return found


@dataclass(frozen=True)
class SuspiciousRow:
    """A suspicious answer: to which prompt, the "baseline" or the "model", why, how it did."""

    index: int | str
    side: str
    flags: tuple[str, ...]
    preference: float | None
    excerpt: str


@dataclass(frozen=True)
class Suspicious:
    """Pairs with a suspicious answer, how many on which side, and the win rate without them."""

    pairs: int
    baseline: int
    model: int
    rows: tuple[SuspiciousRow, ...]
    without: WinRate | None


@dataclass(frozen=True)
class GroupRate:
    """The win rate of some pairs, in percent."""

    n: int
    win_rate: Interval


@dataclass(frozen=True)
class LengthRate(GroupRate):
    """Of those whose answers are so many characters longer than the baseline's."""

    low: int
    high: int
    mean: float


@dataclass(frozen=True)
class Example:
    """A pair to be read: a "win", a "loss", or a "flagged" one."""

    kind: str
    prompt: str
    baseline: str
    model: str
    preference: float | None
    lengths: tuple[int, int]
    flags_baseline: tuple[str, ...]
    flags_model: tuple[str, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class JudgedRates:
    """What judged pairs say together."""

    win_rate: WinRate  # all of them, as judged
    suspicious: Suspicious | None
    mean_length: dict[str, float]  # "baseline" and "model" -> characters
    by_length: tuple[LengthRate, ...]  # in groups of equal size, by the difference in length
    by_category: dict[str, GroupRate]  # where the prompts have one
    flags: dict[str, Counts]  # "baseline" and "model" -> flag -> answers
    examples: tuple[Example, ...]  # picked by a rule


@dataclass(frozen=True)
class PairJudge:
    """Who judged pairs, what the judge goes by, and what it cost."""

    judge: dict[str, Any]  # settings, and the names that its server "reported"
    trust: Trust
    bias: dict[str, Interval | None]  # habit -> how often; None with nothing to see it by
    verdicts: Counts
    bounds: tuple[float, float] | None  # the share if all unreadable verdicts were losses, or wins
    cost: Spend
    remarks: tuple[str, ...]  # sentences that belong beside the win rate


@dataclass(frozen=True)
class WinRateResult:
    """`orpo evaluate win-rate`: two models on prompts of one's own."""

    model: str
    baseline: str
    settings: dict[str, Any]
    account: Counts
    versions: dict[str, str]
    rates: JudgedRates = inline()
    judged: PairJudge = inline()
    kind: str = "win-rate"


@dataclass(frozen=True)
class Entry:
    """A published result of AlpacaEval: win rates in percent, mean length in characters."""

    name: str
    lc_win_rate: float
    win_rate: float
    avg_length: float


@dataclass(frozen=True)
class Leaderboard:
    """The place among so many published results, and those beside it, best first."""

    rank: int
    published: int
    neighbours: tuple[Entry, ...]


@dataclass(frozen=True)
class AlpacaRates(JudgedRates):
    """What judged pairs say together, and where that would stand if it is known."""

    leaderboard: Leaderboard | None = None


@dataclass(frozen=True)
class AlpacaResult:
    """`orpo evaluate alpaca`: a win rate against a published baseline."""

    model: str
    settings: dict[str, Any]
    account: dict[str, Any]  # instructions, and where those without a verdict have gone
    data: Sources
    missing: dict[str, str]  # file -> why it was not there
    versions: dict[str, str]
    judged_by: str = ""  # "judge", "annotations", or nothing
    baseline: str = ""
    outputs: str = sometimes("")  # the file of the model's answers
    annotations: str = sometimes("")  # the file of another tool's verdicts; what follows is of it
    annotator: str | None = sometimes(None)
    by_position: bool | None = sometimes(None)  # nothing says which instruction a row is of
    contradicting: int | None = sometimes(None)  # rows whose index and text say two instructions
    not_comparable: str | None = sometimes(None)  # with the leaderboard: why, or nothing
    rates: AlpacaRates | None = inline(None)  # None where nobody judged
    judged: PairJudge | None = inline(None)  # None where no judge was asked
    kind: str = "alpaca"


@dataclass(frozen=True)
class FlaggedAnswer:
    """A suspicious answer to an MT-Bench question."""

    question_id: int | str
    turn: int
    flags: tuple[str, ...]
    score: float | None
    excerpt: str


@dataclass(frozen=True)
class Scores:
    """One model's MT-Bench scores on the scale of 1 to 10.

    Every mean is over judgments, as the protocol has it: of an answer that was judged twice, both
    count. A suspicious answer counts as judged. A judgment without a score is not averaged in; it
    is counted in `unparsed`. rows = n + unparsed + out_of_range.
    """

    overall: float | None  # the mean of both turns; None if nothing was scored
    by_turn: dict[int, float]
    by_category: dict[str, float]  # in the benchmark's order
    by_category_and_turn: dict[str, dict[int, float]]
    n: int  # judgments averaged
    unparsed: int  # judgments without a score: -1 in FastChat's files
    intervals: dict[str, Interval]
    """"overall", "turn 1", "turn 2" and each category -> 95 % interval; questions are drawn."""
    without_flagged: float | None  # the mean of what is not suspicious; None where all or none is
    flagged: Counts  # flag -> judgments; one can have several
    flagged_answers: int
    flagged_rows: tuple[FlaggedAnswer, ...]
    out_of_range: int  # judgments whose score is not from 0 to 10; not averaged in
    judged_again: int  # answers with several judgments by one judge, which are all averaged in
    disagreeing: int  # judgments whose text names another score than the one recorded
    conflicting: int  # judgments that name two different scores; the first counts
    judges: tuple[str, ...]
    rows: int  # all judgments that came in

    def as_dict(self) -> dict[str, Any]:
        """For JSON; turns become text, as JSON wants its keys."""
        found: dict[str, Any] = plain(self)
        return found


@dataclass(frozen=True)
class MTBenchJudge:
    """Who graded, what canaries got, and what it cost."""

    judge: dict[str, Any]
    trust: Trust
    canary_scores: dict[str, list[float | None]]
    cost: Spend


@dataclass(frozen=True)
class MTBenchResult:
    """`orpo evaluate mt-bench`."""

    model: str
    scores: dict[str, Scores]  # by model; other models' as well
    differences: dict[str, Interval]  # this model's score less another's by the same judge
    paper: dict[str, dict[str, float]]  # model -> category -> score in the published figure
    account: Counts
    categories: dict[str, str]  # of the questions
    answers_from: str  # who gave the answers, or the file of them
    data: Sources
    settings: dict[str, Any]  # and the command that makes the same again
    versions: dict[str, str]
    judged: MTBenchJudge | None = inline(None)  # None where judgments were given
    kind: str = "mt-bench"


@dataclass(frozen=True)
class HarnessScore:
    """A metric of a task: value, the harness's standard error, a 95 % interval, questions."""

    task: str
    metric: str
    filter: str
    value: float
    stderr: float | None
    low: float | None
    high: float | None
    n: int
    of: int
    shots: int | None
    higher_is_better: bool | None


@dataclass(frozen=True)
class HarnessChange:
    """After less before; without an interval where the metric is no mean over questions."""

    task: str
    metric: str
    filter: str
    before: float
    after: float
    value: float
    low: float | None
    high: float | None
    verdict: str


@dataclass(frozen=True)
class HarnessResults:
    """The scores of the model, those of the one that it is compared with, and the changes."""

    after: tuple[HarnessScore, ...] = ()
    before: tuple[HarnessScore, ...] | None = sometimes(None)
    changes: tuple[HarnessChange, ...] = ()


@dataclass(frozen=True)
class HarnessResult:
    """`orpo evaluate harness`; nothing but its settings until all tasks are finished."""

    settings: dict[str, Any]
    models: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    account: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    results: HarnessResults = HarnessResults()
    kind: str = "harness"


Result = PreferenceResult | WinRateResult | AlpacaResult | MTBenchResult | HarnessResult

KINDS: dict[str, type[Result]] = {
    kind.kind: kind
    for kind in (PreferenceResult, WinRateResult, AlpacaResult, MTBenchResult, HarnessResult)
}
"""What stands as `kind` in evaluation.json -> what it holds."""
