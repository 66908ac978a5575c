"""From trials to a recommendation: the best one, its neighbours, and what a last test says of it.

The training loss cannot be compared between trials: lambda is one of its factors. In its place
stands the loss with one lambda for all of them, that of ORPO's default, and with its sign turned:

    score = l(y_w) + 0.1 log sigmoid(z)

l(y_w) is the length-averaged log-probability of the chosen answer (eq. 3 of arXiv 2403.07691) and
falls where a run forgets how to answer; log sigmoid(z) (eq. 7, with the log odds ratio z of eq. 6)
falls where it prefers the rejected answer. How often the chosen answer is preferred, or how
clearly, is no measure by itself: it goes on rising where the answers have long become worse.
`benchmarks/tune_criterion.py` measures how well this and other criteria pick recipes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from orpo.evaluate.intervals import Floats, Interval, mean_interval, paired_interval
from orpo.evaluate.preference.measures import change_of
from orpo.experiments import results as types
from orpo.experiments.claims import VALUES
from orpo.experiments.results import FinalTest, Measure, Outcome, TrialResult, Values
from orpo.objective.log_odds import log_odds

WEIGHT = 0.1
"""What a nat of preference is worth beside a nat of the chosen answer's log-probability."""
_AT_THE_EDGE = 1.2
"""As a factor: what lies as near to the end of a range may go on beyond it."""
_ORDER = ("complete", "pruned", "running", "failed", "cut off")
_BETTER, _WORSE, _UNTOLD, _SAME = "better", "worse", "cannot be told apart", "the same"


def pair_scores(chosen: Any, rejected: Any) -> Floats:
    """l(y_w) + 0.1 log sigmoid(z) of pairs of length-averaged log-probabilities; at most 0."""
    first, second = (np.asarray(one, dtype=np.float64) for one in (chosen, rejected))
    odds = [log_odds(torch.from_numpy(one)).numpy() for one in (first, second)]
    scores: Floats = first - WEIGHT * np.logaddexp(0.0, odds[1] - odds[0])
    return scores


@dataclass(frozen=True)
class Choice:
    """What the trials say."""

    best: TrialResult  # has the highest score
    behind: Mapping[int, Interval]  # number of a finished one -> its score less the best one's
    near: Sequence[TrialResult]  # cannot be told apart from the best, itself among them

    @property
    def band(self) -> dict[str, list[float]]:
        """Setting -> lowest and highest value of the trials that cannot be told apart."""
        values = {n: [getattr(one, n) for one in self.near] for n in vars(self.best.values)}
        return {name: [min(own), max(own)] for name, own in values.items()}

    @property
    def band_words(self) -> str:
        """The same in words."""
        if len(self.near) < 2:
            return "none but itself"
        parts = []
        for (low, high), label in zip(self.band.values(), ("learning rate", "lambda"), strict=True):
            parts.append(f"{label} {low:.3g}" + ("" if low == high else f" to {high:.3g}"))
        return f"{', '.join(parts)} ({len(self.near)} trials)"

    def edges(self, space: types.Space) -> list[list[str]]:
        """(setting, "lowest" or "highest") where the best trial lies at the end of the range."""
        found = []
        for name, (low, high) in vars(space).items():
            value = getattr(self.best, name)
            if value <= low * _AT_THE_EDGE:
                found.append([name, "lowest"])
            elif value >= high / _AT_THE_EDGE:
                found.append([name, "highest"])
        return found


def choose(tried: Sequence[TrialResult], prompts: Sequence[str]) -> Choice | None:
    """The best trial and its neighbours, by a paired interval over prompts; None if none ended."""
    whole = [one for one in tried if one.state == "complete" and one.score is not None]
    if not whole:
        return None
    best = max(whole, key=lambda one: (one.score or 0.0, -one.number))
    scores = {one.number: pair_scores(one.chosen, one.rejected).tolist() for one in whole}
    first = scores[best.number]
    behind = {n: paired_interval(first, own, list(prompts)) for n, own in scores.items()}
    return Choice(best, behind, [one for one in whole if behind[one.number].high >= 0])


def told_trials(tried: Sequence[TrialResult], choice: Choice) -> list[TrialResult]:
    """Every trial: the best first, then those that were given up, and what broke."""
    found = []
    for one in tried:
        told: dict[str, Any] = {"chosen": (), "rejected": ()}
        if one.state == "complete":
            chosen, rejected = np.array(one.chosen), np.array(one.rejected)
            told |= {
                "preference_accuracy": float((chosen > rejected).mean()),
                "chosen_logps": float(chosen.mean()),
                "behind_the_best": choice.behind[one.number],
                "near": one in choice.near,
            }
        found.append(replace(one, **told))

    def place(one: TrialResult) -> tuple[int, float, int]:
        score = -(one.score or 0.0) if one.state == "complete" else -one.steps
        return _ORDER.index(one.state), score, one.number

    return sorted(found, key=place)


def measures_of(before: Sequence[Outcome], after: Sequence[Outcome]) -> dict[str, Measure]:
    """Measure -> what it is at the start and with the best, and the change, with intervals."""

    def score(one: Outcome) -> float:
        return float(pair_scores([one.chosen_logps], [one.rejected_logps])[0])

    names = ("preference_accuracy", "chosen_logps", "correct_answers")
    found = {}
    for name, read in {"score": score, **{name: VALUES[name] for name in names}}.items():
        pairs = [
            (first.prompt, float(a), float(b))
            for first, second in zip(before, after, strict=True)
            if (a := read(first)) is not None and (b := read(second)) is not None
        ]
        if pairs:
            prompts, start, best = (list(column) for column in zip(*pairs, strict=True))
            change = change_of(paired_interval(start, best, prompts))
            levels = [mean_interval(side, prompts) for side in (start, best)]
            found[name] = Measure(levels[0], levels[1], change)
    return found


def recommend(
    space: types.Space, start: Values, choice: Choice, test: FinalTest | None
) -> types.Recommendation:
    """Which of the two to take, and why."""
    verdict, keep_start, why = verdict_of(start, choice, test)
    return types.Recommendation(
        trial=choice.best.number,
        near=[one.number for one in choice.near],
        band=choice.band,
        edges=choice.edges(space),
        band_words=choice.band_words,
        values=start if keep_start else choice.best.values,
        verdict=verdict,
        keep_start=keep_start,
        why=why[0].upper() + why[1:],
    )


def verdict_of(start: Values, choice: Choice, test: FinalTest | None) -> tuple[str, bool, str]:
    """The verdict, whether the start is recommended, and a sentence.

    The start stands unless the trials tell the best one apart from it, and the test does not say
    that it is worse: chosen as the best of several it looks better than it is.
    """
    best = choice.best.values
    if best == start:
        return _SAME, True, f"No trial was better than the recipe's own {start}."
    beside = [one for one in choice.near if one.start]
    if beside:
        less = _signed(choice.behind[beside[0].number])
        head = f"The recipe's own {start} stands: no trial can be told apart from it for the better"
        return _UNTOLD, True, f"{head}. Beside the best of them, {best}, its score is {less}."
    if test is None:
        why = f"{best} was the best of the trials; it was not compared with {start} on other pairs."
        return "not compared", False, why
    change = test.measures["score"].change
    verdict = _BETTER if change.low > 0 else _WORSE if change.high < 0 else _UNTOLD
    words = {
        _BETTER: f"{best} is better than the recipe's own {start}",
        _WORSE: f"{best} was the best of the trials, but is worse than {start} in the test",
        _UNTOLD: f"{best} was the best of the trials; the test cannot tell it apart from {start}",
    }
    seen = f"{_signed(change)} of the score on pairs that no trial has seen."
    return verdict, verdict == _WORSE, f"{words[verdict]}: {seen}"


def _signed(change: Interval) -> str:
    ends = (change.value, change.low, change.high)
    value, low, high = (f"{end:+.4f}" if abs(end) < np.inf else "not known" for end in ends)
    return f"{value} (95 % interval {low} to {high})".replace("-", "−")
