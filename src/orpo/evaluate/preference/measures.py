"""The numbers on held-out pairs, in all and by group, each with its interval; what has changed.

**Calibration.** The odds ratio implies a probability that the chosen answer is preferred, p =
sigmoid(z) (eq. 7 of arXiv 2403.07691 takes its logarithm). As the data always prefer the chosen
answer, pairs are looked at from the model's side: it prefers one answer with confidence max(p,
1 - p), and is right if that is the chosen one. The expected calibration error is the mean over
bins of |confidence - share right|, weighted by pairs (Naeini et al. 2015; Guo et al., arXiv
1706.04599); it is above 0 by chance alone, so what chance gives stands beside it (consistency
resampling, Broecker and Smith 2007). The Brier score is the mean of (1 - p)^2: 0 is perfect, 0.25
is a coin toss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orpo.evaluate.intervals import Interval, mean_interval, paired_interval
from orpo.evaluate.preference.pairs import Floats, ScoredPairs
from orpo.evaluate.results import Calibration, CalibrationBin, Change, PairGroup, Preferences

Values: TypeAlias = Callable[[ScoredPairs], Floats]

METRICS: dict[str, Values] = {
    "preference_accuracy": lambda pairs: pairs.preferred,
    "logps/margin": lambda pairs: pairs.chosen - pairs.rejected,
    "log_odds_chosen": lambda pairs: pairs.log_odds,
    "logps/chosen": lambda pairs: pairs.chosen,
    "logps/rejected": lambda pairs: pairs.rejected,
}
"""Name -> its value for each pair: whether the chosen answer is preferred, the difference of the
average log-probabilities, the log odds ratio, and the average log-probabilities themselves."""

UNTOLD = "cannot be told"

_OF_GROUPS = ("preference_accuracy", "logps/margin", "log_odds_chosen")
_SHARES = {"preference_accuracy"}
_NEITHER_GOOD_NOR_BAD = {"logps/chosen", "logps/rejected"}
_DRAWS = 2000
_DRAWS_OF_A_GROUP = 1000
_BINS = 10  # of calibration
_CHANCE_DRAWS = 1000
_POWER = 0.8
_MOST = 10**7  # prompts
_OF_THE_TRAINER = {
    "rewards/accuracies": "preference_accuracy",  # of ORPO, whose reward is the log-probability
    "preference_accuracy": "preference_accuracy",
    "log_odds_chosen": "log_odds_chosen",
    "logps/chosen": "logps/chosen",
    "logps/rejected": "logps/rejected",
    "nll_loss": "nll_loss",
    "loss": "loss",
}


def measure(pairs: ScoredPairs) -> Preferences:
    """What one model does on the pairs; without any, the account alone."""
    if not len(pairs):
        return Preferences(account=pairs.account)
    return Preferences(
        account=pairs.account,
        intervals={name: _interval(name, pairs, _DRAWS) for name in METRICS},
        calibration=calibration(pairs),
        groups={
            kind: {name: _of_group(part) for name, part in _parts(pairs, kind)}
            for kind in pairs.groups
        },
    )


def compare(found: Preferences, before: ScoredPairs, after: ScoredPairs) -> Preferences:
    """`found`, which was measured on `after`, with what has changed on the pairs in common."""
    rows = np.intersect1d(before.rows, after.rows)
    if not len(rows):
        return replace(found, compared=0)
    old, new = before.of_rows(rows), after.of_rows(rows)
    changes = {name: _change(name, old, new, _DRAWS) for name in METRICS}
    return replace(
        found,
        changes=changes,
        changes_by={
            kind: {
                name: {
                    metric: _change(metric, old.of_rows(part.rows), part, _DRAWS_OF_A_GROUP)
                    for metric in _OF_GROUPS
                }
                for name, part in _parts(new, kind)
            }
            for kind in new.groups
        },
        verdict=told(_interval("preference_accuracy", new, _DRAWS), changes["preference_accuracy"]),
        compared=len(rows),
    )


def preference_summary(metrics: Mapping[str, float], pairs: int) -> dict[str, float]:
    """The metrics of `ORPOTrainer.evaluate()` under names that a reader understands.

    Args:
        metrics: With the prefix "eval_", as the trainer returns them.
        pairs: Number of pairs that were scored.

    Returns:
        preference_accuracy (share of pairs whose chosen answer is more probable per token),
        log_odds_chosen (mean log odds ratio), logps/*, nll_loss, loss, pairs.
    """
    summary = {
        ours: float(metrics[f"eval_{theirs}"])
        for theirs, ours in _OF_THE_TRAINER.items()
        if f"eval_{theirs}" in metrics
    }
    return {**summary, "pairs": float(pairs)}


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


def _of_group(part: ScoredPairs) -> PairGroup:
    found = {name: _interval(name, part, _DRAWS_OF_A_GROUP) for name in _OF_GROUPS}
    return PairGroup(len(part), len(set(part.prompts)), found)


def _change(name: str, old: ScoredPairs, new: ScoredPairs, draws: int) -> Change:
    before, after = (METRICS[name](pairs).tolist() for pairs in (old, new))
    prompts, share = list(new.prompts), name in _SHARES
    interval = paired_interval(before, after, prompts, draws=draws, share=share)
    words = ("higher", "lower") if name in _NEITHER_GOOD_NOR_BAD else ("better", "worse")
    return change_of(interval, words)


def change_of(interval: Interval, words: tuple[str, str] = ("better", "worse")) -> Change:
    """A mean change with its verdict: one of the words for more and for less, or that none can be.

    Where none can be told, it says how many prompts and pairs would show a change of this size in
    four evaluations out of five.
    """
    verdict = words[0] if interval.low > 0 else words[1] if interval.high < 0 else UNTOLD
    prompts = _prompts_needed(interval) if verdict == UNTOLD else None
    each = interval.n / interval.clusters
    pairs = None if prompts is None else math.ceil(prompts * each)
    return Change(**vars(interval), verdict=verdict, prompts_needed=prompts, pairs_needed=pairs)


def _prompts_needed(interval: Interval) -> int | None:
    """Prompts at which the interval would leave out 0 with a chance of 80 %.

    The interval's width falls with the square root of the prompts (Cohen, "Statistical Power
    Analysis", 1988, ch. 2).
    """
    half = (interval.high - interval.low) / 2
    if interval.value == 0 or not math.isfinite(half):
        return None
    normal = NormalDist()
    quantile = normal.inv_cdf((1 + interval.level) / 2)
    reach = (quantile + normal.inv_cdf(_POWER)) / quantile
    needed = interval.clusters * (reach * half / abs(interval.value)) ** 2
    return max(math.ceil(needed), interval.clusters + 1) if needed < _MOST else None


def calibration(pairs: ScoredPairs) -> Calibration:
    """How sure the model is of its preference in at least one pair, and how often it is right."""
    z = pairs.log_odds
    with np.errstate(over="ignore"):  # a probability of 0 is what is meant
        chosen = 1 / (1 + np.exp(-z))
    sure = np.maximum(chosen, 1 - chosen)
    right = np.where(z > 0, 1.0, np.where(z < 0, 0.0, 0.5))
    edges = np.linspace(0.5, 1.0, _BINS + 1)
    places = np.clip(np.searchsorted(edges, sure, side="right") - 1, 0, _BINS - 1)
    bins = tuple(
        _bin(pairs, sure, right, places == i, (edges[i], edges[i + 1]))
        for i in range(_BINS)
        if (places == i).any()
    )
    found = Calibration(
        confidence=float(sure.mean()),
        right=float(right.mean()),
        ece=float(_error(sure, right[None, :], places)[0]),
        ece_by_chance=_by_chance(sure, places),
        brier=float(((1 - chosen) ** 2).mean()),
        bins=bins,
        words="",
    )
    return replace(found, words=_words(found))


def _bin(
    pairs: ScoredPairs, sure: Floats, right: Floats, inside: Any, borders: tuple[float, float]
) -> CalibrationBin:
    prompts = [pairs.prompts[int(i)] for i in np.flatnonzero(inside)]
    return CalibrationBin(
        low=round(float(borders[0]), 3),
        high=round(float(borders[1]), 3),
        confidence=float(sure[inside].mean()),
        right=mean_interval(right[inside].tolist(), prompts, share=True),
    )


def _error(sure: Floats, outcomes: Floats, places: NDArray[np.int64]) -> Floats:
    """The expected calibration error of each row of outcomes, (draws,)."""
    total = np.zeros(len(outcomes))
    for i in np.unique(places):
        inside = places == i
        total += np.abs((outcomes[:, inside] - sure[inside]).sum(axis=1))
    error: Floats = total / len(sure)
    return error


def _by_chance(sure: Floats, places: NDArray[np.int64]) -> float:
    random = np.random.default_rng(0)
    errors = [
        _error(sure, (random.random((1, len(sure))) < sure).astype(np.float64), places)[0]
        for _ in range(_CHANCE_DRAWS)
    ]
    return float(np.quantile(errors, 0.95))


def _words(found: Calibration) -> str:
    said = (
        f"It is {100 * found.confidence:.0f} % sure of its preference on average, and right in "
        f"{100 * found.right:.0f} % of the pairs"
    )
    if found.ece <= found.ece_by_chance:
        return f"{said}: as far as these pairs can tell, it is as often right as it is sure."
    over = found.confidence > found.right
    way = "too sure of itself" if over else "less sure than it could be"
    return f"{said}: it is {way} (by {100 * found.ece:.0f} points in the mean over the bins)."


def told(share: Interval, change: Change | None = None) -> str:
    """One sentence on the share of pairs whose chosen answer is preferred, and how it changed."""
    pairs = f"{share.n:,} held-out pair{'s' * (share.n != 1)}"
    over = "" if share.n == share.clusters else f" over {share.clusters:,} prompts"
    ends = f"95 % interval {100 * share.low:.1f} to {100 * share.high:.1f}"
    said = f"Prefers the chosen answer in {100 * share.value:.1f} % of {pairs}{over} ({ends})"
    if change is None:
        return f"{said}: {_against_chance(share)}."
    points, (low, high) = 100 * change.value, (100 * change.low, 100 * change.high)
    size = f"{points:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})".replace("-", "−")
    head = f"{said}, before in {100 * (share.value - change.value):.1f} %: "
    if change.verdict != UNTOLD:
        return f"{head}{change.verdict} by {size.lstrip('+−')}."
    return f"{head}whether it is better cannot be told at this size, {size}{_needed(change)}."


def _against_chance(share: Interval) -> str:
    if share.low > 0.5:
        return "more often than a coin would"
    if share.high < 0.5:
        return "less often than a coin would"
    return "that cannot be told from a coin at this size"


def _needed(change: Change) -> str:
    if change.prompts_needed is None or change.pairs_needed is None:
        return ""
    same = change.pairs_needed == change.prompts_needed
    prompts = "" if same else f" ({change.prompts_needed:,} prompts)"
    return f"; about {change.pairs_needed:,} pairs{prompts} would show such a change"
