"""From trials to a recommendation: the best one, its neighbours, and what a last test says of it.

The training loss cannot be compared between trials: lambda is one of its factors. In its place
stands the loss with one lambda for all of them, that of ORPO's default, and with its sign turned:
`claims.pair_scores`. How often the chosen answer is preferred, or how clearly, is no measure by
itself: it goes on rising where the answers have long become worse. `benchmarks/tune_criterion.py`
measures how well this and other criteria pick recipes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from orpo.evaluate.intervals import Interval, paired_interval
from orpo.evaluate.preference.measures import change_of
from orpo.evaluate.preference.pairs import ScoredPairs
from orpo.evaluate.verdict import Measured, judge
from orpo.experiments import claims
from orpo.experiments import results as types
from orpo.experiments.claims import Group, pair_scores, too_few
from orpo.experiments.results import SMALLEST, FinalTest, Measure, Outcome, TrialResult, Values

_AT_THE_EDGE = 1.2
"""As a factor: what lies as near to the end of a range may go on beyond it."""
_ORDER = ("complete", "pruned", "running", "failed", "cut off")
_BETTER, _WORSE, _UNTOLD, _SAME = "better", "worse", "cannot be told apart", "the same"


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


def lacking(
    tried: Sequence[TrialResult],
    choice: Choice,
    steps: int,
    prompts: Sequence[str],
    base: ScoredPairs,
) -> list[str]:
    """Why a search is no evidence for any recipe, whatever its trials say."""
    best, whole = choice.best, [one for one in tried if one.state == "complete"]
    found = too_few(held_out_prompts=len(set(prompts)), steps=steps)
    if len(whole) < 2:  # what was given up was behind
        others = sum(one.state == "pruned" for one in tried)
        found += [] if others else ["one trial, and none beside it"]
    before, after = (pair_scores(one.chosen, one.rejected).tolist() for one in (base, best))
    gained = paired_interval(before, after, prompts)
    ruin = judge(Measured(chosen=claims.moved(base.chosen.tolist(), [*best.chosen], prompts)))
    if ruin.word == "worse":
        found.append(f"the best trial ruined its model: {ruin.against[0]}")
    elif not gained.told(_BETTER, "", "", SMALLEST):
        found.append(f"no trial is better than no training: {gained.signed(1, 4)} of the score")
    return found


def final_test(
    key: dict[str, Any],
    seeds: Sequence[int],
    before: Sequence[Sequence[Outcome]],
    after: Sequence[Sequence[Outcome]],
) -> FinalTest:
    """What the test says: the runs with the start, and those with the best, seed by seed."""
    start, best = (Group("", "", [*map(claims.tested, runs)]) for runs in (before, after))
    found = {}
    for name in ("score", "preference_accuracy", "chosen_logps", "correct_answers"):
        sides, change = [start.values(name), best.values(name)], claims.compared(start, best, name)
        if change:
            first, last = (claims.level_interval(*side) for side in sides if side)
            found[name] = Measure(first, last, change_of(change, least=SMALLEST))
    words = map(claims.verdict_of, best.runs, start.runs)
    against = [one.against[0] for one in words if one.word in ("worse", "doubtful")]
    return FinalTest(key, [*seeds], against, found)


def recommend(space: types.Space, start: Values, choice: Choice, *how: Any) -> types.Recommendation:
    """Which of the two to take, and why; see `verdict_of`."""
    verdict, keep_start, why = verdict_of(start, choice, *how)
    near, values = [one.number for one in choice.near], start if keep_start else choice.best.values
    told = (choice.best.number, near, choice.band, choice.edges(space), choice.band_words, values)
    return types.Recommendation(*told, verdict, keep_start, why)


def verdict_of(
    start: Values,
    choice: Choice,
    test: FinalTest | None,
    missing: Sequence[str] = (),
    broke: str = "",
) -> tuple[str, bool, str]:
    """The verdict, whether the start is recommended, and a sentence.

    `missing` says why nothing can be decided, `broke` how the start did. The start stands unless
    the trials and the test tell the best one apart from it: the best of several looks better than
    it is.
    """
    best, own = choice.best.values, f"the recipe's own {start}"
    beside = [choice.behind[one.number] for one in choice.near if one.start]
    if missing:
        kept = f"{own} broke ({broke})" if broke else f"{own} stays"
        return "no evidence", not broke, f"No evidence: {'; '.join(missing)}. Undecided: {kept}."
    if broke or (test is None and best != start and not beside):
        left = f"{own} broke ({broke})" if broke else f"it was not yet tested beside {own}"
        return "not compared", not broke, f"{best} was the best of the trials; {left}."
    if test is not None:
        return _of_test(test, best, own)
    if best == start:
        return _SAME, True, f"No trial was better than {own}."
    less = f"Beside the best of them, {best}, its score is {beside[0].signed(1, 4)}"
    stands = f"{own} stands: no trial can be told apart from it for the better"
    return _UNTOLD, True, f"{stands[0].upper()}{stands[1:]}. {less}."


def _of_test(test: FinalTest, best: Values, own: str) -> tuple[str, bool, str]:
    """The same where there was a test; whose answers are worse is not better."""
    against, score = [*test.against], test.measures.get("score")
    checked = test.measures.get("correct_answers")
    if checked and checked.change.high < 0:
        against.append(f"{checked.change.signed(100, 1, ' points')} of right answers")
    if score is None:
        return _UNTOLD, True, f"Undecided: {own} stays; {against[0]}."
    verdict = score.change.told(_BETTER, _WORSE, _UNTOLD, SMALLEST)
    seen = f"{score.change.signed(1, 4)} of the score on pairs that no trial has seen"
    if verdict == _BETTER and not against:
        return _BETTER, False, f"{best} is better than {own}: {seen}."
    words = {_BETTER: "its answers are worse", _WORSE: "is worse in the test"}
    why = words.get(verdict, "the test cannot tell them apart")
    told = "; ".join([*against, seen])
    verdict = _UNTOLD if verdict == _BETTER else verdict
    return verdict, True, f"Keep {own}: {best} was the best of the trials, but {why}: {told}."
