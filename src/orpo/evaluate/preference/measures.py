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

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orpo.evaluate.intervals import Floats, Interval, mean_interval, paired_interval
from orpo.evaluate.preference.pairs import ScoredPairs
from orpo.evaluate.results import Calibration, CalibrationBin, Change, PairGroup, Preferences

METRICS: dict[str, Callable[[ScoredPairs], Floats]] = {
    "preference_accuracy": lambda pairs: pairs.preferred,
    "logps/margin": lambda pairs: pairs.chosen - pairs.rejected,
    "log_odds_chosen": lambda pairs: pairs.log_odds,
    "logps/chosen": lambda pairs: pairs.chosen,
    "logps/rejected": lambda pairs: pairs.rejected,
}
"""Name -> its value for each pair: whether the chosen answer is preferred, the difference of the
average log-probabilities, the log odds ratio, and the average log-probabilities themselves."""

_UNTOLD = "cannot be told"
_ACCURACY = "preference_accuracy"
_OF_GROUPS = (_ACCURACY, "logps/margin", "log_odds_chosen")
_DRAWS, _DRAWS_OF_A_GROUP = 2000, 1000
_BINS = 10  # of calibration
_CHANCE_DRAWS = 1000
_POWER = 0.8
_MOST = 10**7  # prompts
_KEPT = (_ACCURACY, "log_odds_chosen", "logps/chosen", "logps/rejected", "nll_loss", "loss")


def measure(pairs: ScoredPairs) -> Preferences:
    """What one model does on the pairs; without any, the account alone."""
    if not len(pairs):
        return Preferences(account=pairs.account)
    return Preferences(
        account=pairs.account,
        intervals=_intervals(pairs, METRICS, _DRAWS),
        calibration=calibration(pairs),
        groups={
            kind: {
                name: PairGroup(
                    len(part),
                    len(set(part.prompts)),
                    _intervals(part, _OF_GROUPS, _DRAWS_OF_A_GROUP),
                )
                for name, part in _parts(pairs, kind)
            }
            for kind in pairs.groups
        },
    )


def compare(found: Preferences, before: ScoredPairs, after: ScoredPairs) -> Preferences:
    """`found`, which was measured on `after`, with what has changed on the pairs in common."""
    rows = np.intersect1d(before.rows, after.rows)
    if not len(rows):
        return replace(found, compared=0)
    old, new = before.of_rows(rows), after.of_rows(rows)
    return replace(
        found,
        changes=_changes(old, new, METRICS, _DRAWS),
        changes_by={
            kind: {
                name: _changes(old.of_rows(part.rows), part, _OF_GROUPS, _DRAWS_OF_A_GROUP)
                for name, part in _parts(new, kind)
            }
            for kind in new.groups
        },
        compared=len(rows),
    )


def preference_summary(metrics: Mapping[str, float], pairs: int) -> dict[str, float]:
    """The metrics of `ORPOTrainer.evaluate()` on some pairs under names that a reader understands.

    preference_accuracy is the share of pairs whose chosen answer is more probable per token,
    log_odds_chosen the mean log odds ratio; and logps/*, nll_loss, loss, pairs.
    """
    known = {"rewards/accuracies": _ACCURACY, **{name: name for name in _KEPT}}
    summary = {  # the reward of ORPO is the log-probability
        ours: float(metrics[f"eval_{theirs}"])
        for theirs, ours in known.items()
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


def _intervals(pairs: ScoredPairs, names: Iterable[str], draws: int) -> dict[str, Interval]:
    prompts = list(pairs.prompts)
    values = {name: METRICS[name](pairs).tolist() for name in names}
    return {
        name: mean_interval(some, prompts, draws=draws, share=name == _ACCURACY)
        for name, some in values.items()
    }


def _changes(
    old: ScoredPairs, new: ScoredPairs, names: Iterable[str], draws: int
) -> dict[str, Change]:
    found = {}
    for name in names:
        before, after = (METRICS[name](pairs).tolist() for pairs in (old, new))
        how: dict[str, Any] = {"draws": draws, "share": name == _ACCURACY}
        interval = paired_interval(before, after, list(new.prompts), **how)
        found[name] = change_of(interval, "higher", "lower")  # none is good or bad by itself
    return found


def change_of(
    interval: Interval, more: str = "better", less: str = "worse", least: float = 0.0
) -> Change:
    """A mean change with its verdict: the word for more or for less, or that none can be told.

    Where none can, it says how many prompts and pairs would show a change of this size in four
    evaluations out of five.
    """
    verdict = interval.told(more, less, _UNTOLD, least)
    prompts = _prompts_needed(interval) if verdict == _UNTOLD else None
    pairs = None if prompts is None else math.ceil(prompts * (interval.n / interval.clusters))
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
    bins = []
    for i in np.unique(places):
        inside = np.flatnonzero(places == i)
        prompts = [pairs.prompts[int(place)] for place in inside]
        share = mean_interval(right[inside].tolist(), prompts, share=True)
        low, high = (round(float(edge), 3) for edge in edges[i : i + 2])
        bins.append(CalibrationBin(low, high, float(sure[inside].mean()), share))
    random = np.random.default_rng(0)
    by_chance = [
        _error(sure, (random.random((1, len(sure))) < sure).astype(np.float64)[0], places)
        for _ in range(_CHANCE_DRAWS)
    ]
    found = Calibration(
        confidence=float(sure.mean()),
        right=float(right.mean()),
        ece=_error(sure, right, places),
        ece_by_chance=float(np.quantile(by_chance, 0.95)),
        brier=float(((1 - chosen) ** 2).mean()),
        bins=tuple(bins),
        words="",
    )
    return replace(found, words=_words(found))


def _error(sure: Floats, right: Floats, places: NDArray[np.int64]) -> float:
    """The expected calibration error of outcomes."""
    parts = (places == i for i in np.unique(places))
    return float(sum(abs((right[inside] - sure[inside]).sum()) for inside in parts) / len(sure))


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


def told(share: Interval) -> str:
    """One sentence on the share of pairs whose chosen answer is preferred."""
    pairs = f"{share.n:,} held-out pair{'s' * (share.n != 1)}"
    over = "" if share.n == share.clusters else f" over {share.clusters:,} prompts"
    ends = f"95 % interval {100 * share.low:.1f} to {100 * share.high:.1f}"
    said = f"Prefers the chosen answer in {100 * share.value:.1f} % of {pairs}{over} ({ends})"
    if share.low <= 0.5 <= share.high:
        return f"{said}: that cannot be told from a coin at this size."
    return f"{said}: {'more' if share.low > 0.5 else 'less'} often than a coin would."
