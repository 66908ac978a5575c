"""What the ORPO paper claims, decided from the figures of these runs.

A claim about answers holds where the whole 95 % interval of a difference lies on its side, fails
where it lies on the other, and is open where it holds zero. A claim about cost is counted, or, for
memory, decided by whether the runs' ranges are apart.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orpo.evaluate.intervals import Interval, mean_interval
from orpo.experiments.compare.plan import BASE
from orpo.experiments.compare.summary import Cost, Group, compared

__all__ = ["HOLDS", "OPEN", "REFUTED", "Claim", "decide_claims"]

HOLDS, REFUTED, OPEN = "reproduced", "not reproduced", "undecided"
_HALF = 0.505
_MIB = 2**20


@dataclass(frozen=True)
class Claim:
    """One claim and what became of it.

    Attributes:
        name: For machines.
        budget: Under which budget; empty where it is the same under all.
        claim: In words.
        verdict: `HOLDS`, `REFUTED` or `OPEN`.
        evidence: The figures, in words.
        figures: The same for a cell of a table.
        interval: Of the difference that decides, if one does.
    """

    name: str
    budget: str
    claim: str
    verdict: str
    evidence: str
    figures: str
    interval: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Difference:
    """A claim that a value is higher, or lower, with one method than with another."""

    name: str
    claim: str
    value: str
    before: str
    after: str
    lower: bool = False


_DIFFERENCES = (
    _Difference(
        "sft_raises_chosen",
        "SFT makes the chosen answers more likely",
        *("chosen_logps", BASE, "sft"),
    ),
    _Difference(
        "sft_raises_rejected",
        "SFT alone makes the rejected answers more likely too",
        *("rejected_logps", BASE, "sft"),
    ),
    _Difference(
        "orpo_lowers_rejected",
        "ORPO makes the rejected answers less likely",
        *("rejected_logps", BASE, "orpo"),
        lower=True,
    ),
    _Difference(
        "orpo_parts",
        "ORPO parts the chosen from the rejected answers",
        *("margin", BASE, "orpo"),
    ),
    _Difference(
        "orpo_parts_more_than_sft",
        "ORPO parts them further than SFT",
        *("margin", "sft", "orpo"),
    ),
    _Difference(
        "orpo_accuracy_over_sft",
        "ORPO prefers the chosen answer more often than SFT",
        *("preference_accuracy", "sft", "orpo"),
    ),
    _Difference(
        "orpo_answers_over_sft",
        "ORPO answers correctly more often than SFT",
        *("correct_answers", "sft", "orpo"),
    ),
    _Difference(
        "orpo_judged_over_sft",
        "the judge prefers ORPO's answers to the base model's more often than SFT's",
        *("judged", "sft", "orpo"),
    ),
    _Difference(
        "orpo_accuracy_over_sft_dpo",
        "ORPO prefers the chosen answer more often than SFT+DPO",
        *("preference_accuracy", "sft+dpo", "orpo"),
    ),
    _Difference(
        "orpo_answers_over_sft_dpo",
        "ORPO answers correctly more often than SFT+DPO",
        *("correct_answers", "sft+dpo", "orpo"),
    ),
    _Difference(
        "orpo_judged_over_sft_dpo",
        "the judge prefers ORPO's answers to the base model's more often than SFT+DPO's",
        *("judged", "sft+dpo", "orpo"),
    ),
)
_SHARES = {"preference_accuracy", "correct_answers", "judged"}


def decide_claims(groups: Sequence[Group], base: Group) -> list[Claim]:
    """Every claim that these runs can decide.

    Args:
        groups: Methods at budgets; ORPO's group stands in each budget that it is the measure of.
        base: The base model.
    """
    budgets = list(dict.fromkeys(group.budget for group in groups))
    claims = []
    for budget in budgets:
        of = {group.method: group for group in groups if group.budget == budget} | {BASE: base}
        claims += [claim for one in _DIFFERENCES if (claim := _decide(one, of, budget))]
        if "orpo" in of and "sft+dpo" in of:
            claims += _costs(of["orpo"], of["sft+dpo"], budget)
    return _without_repeats(claims)


def _decide(one: _Difference, of: dict[str, Group], budget: str) -> Claim | None:
    if one.before not in of or one.after not in of:
        return None
    found = compared(of[one.before], of[one.after], one.value)
    if found is None:
        return None
    low, high = (-found.high, -found.low) if one.lower else (found.low, found.high)
    verdict = HOLDS if low > 0 else REFUTED if high < 0 else OPEN
    numbers = _numbers(found, one.value)
    unit = " points" if one.value in _SHARES else " per token"
    return Claim(
        one.name,
        budget,
        one.claim,
        verdict,
        f"{numbers[0]}{unit} (95 % interval {numbers[1]} to {numbers[2]})",
        f"{numbers[0]}{unit} ({numbers[1]} to {numbers[2]})",
        found.as_dict(),
    )


def _numbers(found: Interval, value: str) -> list[str]:
    """The middle, the low and the high end of a difference, with their signs."""
    scale, decimals = (100, 1) if value in _SHARES else (1, 3)
    shown = [f"{scale * n:+.{decimals}f}" for n in (found.value, found.low, found.high)]
    return [text.replace("-", "−") for text in shown]


def _costs(orpo: Group, two: Group, budget: str) -> Iterator[Claim]:
    """Forward passes, arithmetic and memory beside SFT+DPO."""
    (ours,) = orpo.stages()
    sft, dpo = two.stages()
    passes, theirs = (_mean(c.forwards / c.pairs for c in costs) for costs in (ours, dpo))
    yield Claim(
        "half_the_forward_passes",
        budget,
        "a pair of ORPO's takes half the forward passes of a pair of DPO's, and no stage before it",
        HOLDS if passes <= _HALF * theirs else REFUTED,
        f"{passes:.2f} against {theirs:.2f} for each pair, after "
        f"{_mean(c.forwards / c.pairs for c in sft):.2f} for each of the SFT stage",
        f"{passes:.2f} against {theirs:.2f}",
    )
    flops = _mean(c.flops / c.pairs for c in ours)
    pairs = _mean(c.pairs for c in dpo)
    of_both = (_mean(c.flops for c in sft) + _mean(c.flops for c in dpo)) / pairs
    yield Claim(
        "fewer_flops",
        budget,
        "ORPO needs fewer floating-point operations than SFT+DPO for each pair that it compares",
        HOLDS if flops < of_both else REFUTED,
        f"{flops / 1e9:.3g} against {of_both / 1e9:.3g} GFLOPs, both stages counted",
        f"{flops / 1e9:.3g} against {of_both / 1e9:.3g} GFLOPs",
    )
    yield _memory(orpo, two, budget)


def _memory(orpo: Group, two: Group, budget: str) -> Claim:
    """Whether the peaks of all seeds differ; one seed alone cannot tell."""
    ours, theirs = ([_peak(run.costs) for run in group.runs] for group in (orpo, two))
    beyond, beside = ([_beyond(run.costs) for run in group.runs] for group in (orpo, two))
    found = mean_interval([b / _MIB - a / _MIB for a, b in zip(ours, theirs, strict=True)])
    return Claim(
        "less_memory",
        budget,
        "ORPO needs less memory than SFT+DPO",
        HOLDS if found.low > 0 else REFUTED if found.high < 0 else OPEN,
        f"peaks of {_mib(ours)} against {_mib(theirs)} MiB, {_mib(beyond)} against {_mib(beside)} "
        "of them beyond the loaded model",
        f"{_mib(ours)} against {_mib(theirs)} MiB",
        found.as_dict(),
    )


def _peak(costs: Sequence[Cost]) -> int:
    return max(cost.peak_bytes for cost in costs)


def _beyond(costs: Sequence[Cost]) -> int:
    return max(cost.peak_bytes - cost.idle_bytes for cost in costs)


def _mib(sizes: Sequence[int]) -> str:
    return f"{statistics.fmean(sizes) / _MIB:,.0f}"


def _mean(values: Any) -> float:
    return statistics.fmean(values)


def _without_repeats(claims: Sequence[Claim]) -> list[Claim]:
    """A claim that has the same figures under both budgets is made once, without a budget."""
    kept: dict[tuple[str, str, str], Claim] = {}
    for claim in claims:
        key = (claim.name, claim.verdict, claim.evidence)
        before = kept.get(key)
        kept[key] = claim if before is None else Claim(**{**asdict(before), "budget": ""})
    return list(kept.values())
