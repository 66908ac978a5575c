"""From the outcomes and costs of runs to the table, and to what the ORPO paper claims.

Two things were drawn: the held-out prompts and the seeds of the runs. An interval over prompts
(`orpo.evaluate.intervals`) and Student's interval over the seeds' means are put together by adding
the squares of their distances from the mean (MOVER: Zou and Donner, Statistics in Medicine 27,
2008). Both distances are whole ones, so the result is rather too wide than too narrow: few seeds
that agree cost little, few seeds that disagree make it as wide as it must be.

A claim holds where the whole 95 % interval of a difference lies on its side and the difference is
large enough to matter, fails where the interval holds no such difference, and is open otherwise.
Below the least numbers of seeds, steps and prompts nothing is decided, nor for or against a method
that learned nothing that shows or whose model is ruined: it may rank well and write no text.
docs/evaluation/comparing.md says why they are what they are, and how often claims err.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from statistics import fmean
from typing import Any

import numpy as np

from orpo.evaluate.intervals import Floats, Interval, is_share, mean_interval, paired_interval
from orpo.evaluate.verdict import FEWEST_PAIRS, Answer, Measured, Moved, Verdict, judge
from orpo.experiments import results as types
from orpo.experiments.results import (
    BASE,
    SMALLEST,
    Arm,
    Claim,
    ComparisonResult,
    Cost,
    MethodResult,
    Outcome,
)

HOLDS, REFUTED, OPEN = "reproduced", "not reproduced", "undecided"
FEWEST_SEEDS, FEWEST_STEPS = 3, 30
"""Below these, and below `FEWEST_PAIRS` held-out prompts, nothing is decided."""
WEIGHT = 0.1
"""What a nat of preference is worth beside a nat of the chosen answer's log-probability."""
_HALF = 0.505
_MIB = 2**20

Runs = Sequence[Sequence[float]]
"""One row for each seed; in it one value for each held-out pair, in the same order."""

VALUES: Mapping[str, Callable[[Outcome], float | None]] = {
    "preference_accuracy": lambda one: one.prefers_chosen,
    "correct_answers": lambda one: None if one.correct is None else float(one.correct),
    "chosen_logps": lambda one: one.chosen_logps,
    "rejected_logps": lambda one: one.rejected_logps,
    "margin": lambda one: one.chosen_logps - one.rejected_logps,
    "score": lambda one: float(pair_scores([one.chosen_logps], [one.rejected_logps])[0]),
}
"""What is read from each held-out pair; the log-probabilities are per token."""
TABLED = tuple(VALUES)[:-1]

_DIFFERENCES = (
    ("sft_raises_chosen", "chosen_logps", BASE, "sft", "SFT makes the chosen answers more likely"),
    (
        *("sft_raises_rejected", "rejected_logps", BASE, "sft"),
        "SFT alone makes the rejected answers more likely too",
    ),
    (
        *("orpo_lowers_rejected", "rejected_logps", BASE, "orpo"),
        "ORPO makes the rejected answers less likely",
    ),
    ("orpo_parts", "margin", BASE, "orpo", "ORPO parts the chosen from the rejected answers"),
    ("orpo_parts_more_than_sft", "margin", "sft", "orpo", "ORPO parts them further than SFT"),
    *(
        (f"orpo_{name}_over_{method.replace('+', '_')}", value, method, "orpo", claim.format(title))
        for method, title in (("sft", "SFT"), ("sft+dpo", "SFT+DPO"))
        for name, value, claim in (
            (
                *("accuracy", "preference_accuracy"),
                "ORPO prefers the chosen answer more often than {}",
            ),
            ("answers", "correct_answers", "ORPO answers correctly more often than {}"),
            (
                *("judged", "judged"),
                "the judge prefers ORPO's answers to the base model's more often than {}'s",
            ),
        )
    ),
)
"""Name, value, method before, method after, claim: that the value is higher after than before."""
_LOWER = {"orpo_lowers_rejected"}
"""Claims that it is lower."""
_SHARES = {"preference_accuracy", "correct_answers", "judged"}
_SUMS = ("steps", "pairs", "forwards", "flops", "seconds")


@dataclass(frozen=True)
class ArmResult:
    """A finished run of a method: the costs of its stages, and its model's outcomes."""

    arm: Arm
    costs: Sequence[Cost]
    outcomes: Sequence[Outcome]
    judged: Mapping[int, float] = field(default_factory=dict)
    """Row -> a judge's preference for this model's answer over the base model's, from 0 to 1."""

    def values(self, name: str) -> dict[int, float]:
        """Row -> one of `VALUES`, or what the judge said; only rows that have it."""
        if name == "judged":
            return dict(self.judged)
        found = {one.row: VALUES[name](one) for one in self.outcomes}
        return {row: value for row, value in found.items() if value is not None}

    def means(self, *names: str) -> dict[str, Any]:
        """The means of some `VALUES`; None without any, and where one is not finite."""
        of = {name: [*self.values(name).values()] for name in names}
        found = {name: fmean(own) if own else math.nan for name, own in of.items()}
        return {name: mean if math.isfinite(mean) else None for name, mean in found.items()}


@dataclass(frozen=True)
class Group:
    """All seeds of a method at a budget, in the same order in every group."""

    method: str
    budget: str
    runs: Sequence[ArmResult]

    def values(self, name: str) -> tuple[Runs, list[str]] | None:
        """(runs x pairs) of a value that each run has, and the pairs' prompts.

        None without any, and where one is not finite.
        """
        found = [run.values(name) for run in self.runs]
        prompts = {one.row: one.prompt for one in self.runs[0].outcomes}
        rows = [row for row in prompts if all(row in run for run in found)]
        if not rows or not all(math.isfinite(run[row]) for run in found for row in rows):
            return None
        return [[run[row] for row in rows] for run in found], [prompts[row] for row in rows]

    def stages(self) -> list[tuple[Cost, ...]]:
        """For each stage, its costs in the order of the runs."""
        return list(zip(*(run.costs for run in self.runs), strict=True))

    def peaks(self, *, beyond_idle: bool = False) -> list[int]:
        """The most memory that any stage held, for each run."""
        return [
            max(cost.peak_bytes - cost.idle_bytes * beyond_idle for cost in run.costs)
            for run in self.runs
        ]


def level_interval(runs: Runs, prompts: Sequence[Hashable]) -> Interval:
    """The mean over seeds and pairs, with its interval; pairs of one prompt are not independent."""
    flat = [*chain(*runs)]
    over_prompts = mean_interval(flat, [*prompts] * len(runs))
    return _widened(over_prompts, [*map(fmean, runs)], (0.0, 1.0) if is_share(flat) else None)


def change_interval(before: Runs, after: Runs, prompts: Sequence[Hashable]) -> Interval:
    """The mean of `after - before`, with its interval; a single run stands beside every seed."""
    count = max(len(before), len(after))
    before, after = (list(runs) * count if len(runs) == 1 else runs for runs in (before, after))
    first, second = ([*chain(*runs)] for runs in (before, after))
    over_prompts = paired_interval(first, second, [*prompts] * count)
    means = [fmean(b) - fmean(a) for a, b in zip(before, after, strict=True)]
    both = is_share(first) and is_share(second)
    return _widened(over_prompts, means, (-1.0, 1.0) if both else None)


def _widened(found: Interval, means: Sequence[float], ends: tuple[float, float] | None) -> Interval:
    """An interval over prompts, with what the seeds add to it."""
    if len(means) < 2:
        return found
    over_seeds = mean_interval(means, level=found.level, share=False)
    below = math.hypot(found.low - found.value, over_seeds.low - over_seeds.value)
    above = math.hypot(found.high - found.value, over_seeds.high - over_seeds.value)
    least, most = ends or (-math.inf, math.inf)
    return replace(found, low=max(found.value - below, least), high=min(found.value + above, most))


def compared(before: Group, after: Group, name: str) -> Interval | None:
    """How much higher a value is in one group than in another, on the same pairs and seeds."""
    first, second = before.values(name), after.values(name)
    if first is None or second is None or first[1] != second[1]:
        return None
    return change_interval(first[0], *second)


def summarise(group: Group, base: Group) -> types.MethodResult:
    """A row of the table."""
    found: dict[str, Any] = {}
    for name in (*TABLED, "judged"):
        values = group.values(name)
        found[name] = level_interval(*values) if values else None
        if name != "judged":
            change = compared(base, group, name) if group is not base and values else None
            found[f"{name}_change"] = change
    seeds = [run.arm.seed for run in group.runs if group.budget]
    cost = _cost(group) if group.budget else None
    pairs, own = len(group.runs[0].outcomes), group.runs if group.budget else ()
    words = [verdict_of(run, base.runs[0]) for run in own]
    bad = [one for word in ("worse", "doubtful") for one in words if one.word == word]
    found |= {"verdict": bad[0].word, "against": [*bad[0].against]} if bad else {}
    return MethodResult(group.method, group.budget, seeds, pairs, cost=cost, **found)


def moved(before: Sequence[float], after: Sequence[float], prompts: Sequence[Hashable]) -> Moved:
    """A value of one run's model before and after."""
    change, mean = paired_interval(before, after, prompts), fmean(after)
    return Moved(mean, mean - change.value, change.low, change.high, change.clusters)


def tested(outcomes: Sequence[Outcome]) -> ArmResult:
    """What a model does, whatever it was trained with."""
    return ArmResult(Arm(BASE, BASE, "", 0, []), [], outcomes)


def verdict_of(run: ArmResult, base: ArmResult) -> Verdict:
    """What broke in a run's model, whatever it was to learn: neither ranking nor checks count."""
    found, asked = {}, {one.row: one for one in base.outcomes}
    for name in ("chosen_logps", "correct_answers"):
        first, last = (Group("", "", [one]).values(name) for one in (base, run))
        if first and last:
            found[name] = moved(first[0][0], last[0][0], last[1])
    checked = found.get("correct_answers")
    answers = [
        Answer(str(asked[one.row].answer), one.answer, one.chosen)
        for one in run.outcomes
        if one.answer is not None and asked[one.row].answer is not None
    ]
    right = checked if checked and checked.low > 0 else None
    chosen = found.get("chosen_logps", Moved(math.nan))
    return judge(Measured(chosen=chosen, checked=right, answers=answers), "the base model")


def _cost(group: Group) -> types.MethodCost:
    of_stage = (*_SUMS, "peak_bytes", "idle_bytes", "forwards_scored")
    stages = [
        types.StageCost(objective=own[0].objective, **{name: _mean(own, name) for name in of_stage})
        for own in group.stages()
    ]
    return types.MethodCost(
        stages=stages,
        **{name: sum(getattr(stage, name) for stage in stages) for name in _SUMS},
        peak_bytes=fmean(group.peaks()),
        peak_bytes_by_seed=group.peaks(),
        beyond_idle_bytes=fmean(group.peaks(beyond_idle=True)),
        seconds_by_seed=[math.fsum(cost.seconds for cost in run.costs) for run in group.runs],
    )


def decide_claims(groups: Sequence[Group], base: Group) -> list[Claim]:
    """Every claim that these runs can decide; once where its figures are those of both budgets."""
    claims: list[Claim] = []
    for budget in dict.fromkeys(group.budget for group in groups):
        of = {group.method: group for group in groups if group.budget == budget} | {BASE: base}
        for name, value, before, after, claim in _DIFFERENCES:
            found = compared(of[before], of[after], value) if {before, after} <= {*of} else None
            if found is not None:
                claims.append(_claim(name, budget, claim, value, found))
        if {"orpo", "sft+dpo"} <= of.keys():
            claims += _costs(of["orpo"], of["sft+dpo"], budget)
    kept: dict[tuple[str, str, str], Claim] = {}
    for one in claims:
        key = (one.name, one.verdict, one.evidence)
        kept[key] = replace(kept[key], budget="") if key in kept else one
    return list(kept.values())


def _claim(name: str, budget: str, claim: str, value: str, found: Interval) -> Claim:
    turned = replace(found, value=-found.value, low=-found.high, high=-found.low)
    scale, decimals, unit = (100, 1, " points") if value in _SHARES else (1, 3, " per token")
    verdict = _decided(turned if name in _LOWER else found, SMALLEST)
    return Claim(name, budget, claim, verdict, found.signed(scale, decimals, unit), found)


def _decided(found: Interval, least: float) -> str:
    """What is surely smaller than `least` is no difference that counts."""
    return REFUTED if found.high < least else found.told(HOLDS, OPEN, OPEN, least)


def judged(r: ComparisonResult) -> ComparisonResult:
    """The result with what it lacks to be evidence; no claim that lacks anything is decided."""
    lacking, claims = list(_lacking(r)), []
    for one in r.claims:
        why = "" if one.verdict == OPEN else lacking[0] if lacking else _fault_of(one, r.table)
        more = f"; nothing is decided: {why}" if why and not lacking else ""
        verdict = OPEN if why else one.verdict
        claims.append(replace(one, verdict=verdict, evidence=one.evidence + more))
    return replace(r, claims=claims, evidence=not lacking, lacking=lacking)


def too_few(**counts: int) -> list[str]:
    """What there is too little of: seeds, steps or prompts, by their names."""
    least = {"seeds": FEWEST_SEEDS, "steps": FEWEST_STEPS}
    needed = {name: least.get(name, FEWEST_PAIRS) for name in counts}
    return [
        f"{n} {name.replace('_', ' ').removesuffix('s' * (n == 1))} ({needed[name]} are the least)"
        for name, n in counts.items()
        if n < needed[name]
    ]


def _lacking(r: ComparisonResult) -> Iterator[str]:
    if not r.table:
        return
    share = r.table[0].preference_accuracy
    prompts = share.clusters if share else 0
    yield from too_few(seeds=len(r.seeds), steps=r.steps, held_out_prompts=prompts)
    subjects = ["orpo"] if "orpo" in r.methods else r.methods
    rows = [row for row in r.table if row.method in subjects]
    faults = [*map(fault, rows)] or [f"{name.upper()}'s runs broke" for name in subjects]
    if all(faults):
        yield from dict.fromkeys(faults)


def fault(row: MethodResult, *, won: bool = False) -> str:
    """Why a method's runs prove nothing; who is to have won has no doubts against it either."""
    if row.verdict == "worse" or (won and row.verdict == "doubtful"):
        word = "ruined its model" if row.verdict == "worse" else "is doubtful"
        return f"{row.method.upper()} {word}: {'; '.join(row.against[:1])}"
    return "" if row.learned else f"{row.method.upper()} learned nothing that shows"


def _fault_of(claim: Claim, table: Sequence[MethodResult]) -> str:
    """Why a claim cannot be decided by runs that could decide others."""
    sides = {name: pair for name, _, *pair, _ in _DIFFERENCES}.get(claim.name, [])
    if not sides or claim.interval is None:
        return ""
    few = too_few(prompts=claim.interval.clusters)
    winner = sides[claim.verdict == HOLDS]
    found = (
        fault(row, won=row.method == winner)
        for row in table
        if row.method in sides and row.budget and claim.budget in ("", row.budget)
    )
    return next(filter(None, (*few, *found)), "")


def _costs(orpo: Group, two: Group, budget: str) -> Iterator[Claim]:
    """Forward passes, arithmetic and memory beside SFT+DPO."""
    (ours,), (sft, dpo) = orpo.stages(), two.stages()
    passes, theirs, first = (fmean(c.forwards / c.pairs for c in own) for own in (ours, dpo, sft))
    yield Claim(
        *("half_the_forward_passes", budget),
        "a pair of ORPO's takes half the forward passes of a pair of DPO's, and no stage before it",
        HOLDS if passes <= _HALF * theirs else REFUTED,
        f"{passes:.2f} against {theirs:.2f} a pair, after {first:.2f} for each of the SFT stage",
    )
    flops = fmean(c.flops / c.pairs for c in ours)
    of_both = (_mean(sft, "flops") + _mean(dpo, "flops")) / _mean(dpo, "pairs")
    yield Claim(
        *("fewer_flops", budget),
        "ORPO needs fewer floating-point operations than SFT+DPO for each pair that it compares",
        HOLDS if flops <= (1 - SMALLEST) * of_both else REFUTED,
        f"{flops / 1e9:.3g} against {of_both / 1e9:.3g} GFLOPs, both stages counted",
    )
    peaks = [[peak / _MIB for peak in group.peaks()] for group in (orpo, two)]
    found = mean_interval([b - a for a, b in zip(*peaks, strict=True)])  # one seed cannot tell
    beyond = [[peak / _MIB for peak in group.peaks(beyond_idle=True)] for group in (orpo, two)]
    all_of, more = (" against ".join(f"{fmean(own):,.0f}" for own in of) for of in (peaks, beyond))
    yield Claim(
        *("less_memory", budget, "ORPO needs less memory than SFT+DPO"),
        _decided(found, SMALLEST * fmean(peaks[1])),
        f"peaks of {all_of} MiB, {more} of them beyond the loaded model",
        found,
    )


def _mean(costs: Iterable[Any], name: str) -> float:
    return fmean(getattr(cost, name) for cost in costs)


def pair_scores(chosen: Any, rejected: Any) -> Floats:
    """l(y_w) + 0.1 log sigmoid(z) of pairs of length-averaged log-probabilities; at most 0.

    The first (eq. 3 of arXiv 2403.07691) falls where a run forgets how to answer, the second (eq.
    7, with the log odds ratio z of eq. 6) where it prefers the rejected answer.
    """
    import torch  # noqa: PLC0415 - a page needs no torch

    from orpo.objective.log_odds import log_odds  # noqa: PLC0415

    first, second = (np.asarray(one, dtype=np.float64) for one in (chosen, rejected))
    odds = [log_odds(torch.from_numpy(one)).numpy() for one in (first, second)]
    scores: Floats = first - WEIGHT * np.logaddexp(0.0, odds[1] - odds[0])
    return scores
