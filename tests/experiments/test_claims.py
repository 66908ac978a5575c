"""Claims follow the figures: an effect that was put in is found, its opposite is refuted.

Intervals over prompts and seeds cover, and they widen where seeds disagree.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from orpo.evaluate.intervals import mean_interval
from orpo.experiments.claims import (
    HOLDS,
    OPEN,
    REFUTED,
    change_interval,
    decide_claims,
    level_interval,
)
from tests.experiments.made import AS_IN_THE_PAPER, Effect, base_group, groups

PROMPTS = [f"prompt {n}" for n in range(60)]
TURNED = {
    **AS_IN_THE_PAPER,
    "orpo": AS_IN_THE_PAPER["sft"],
    "sft": AS_IN_THE_PAPER["orpo"],
}


def decided(effects: dict[str, Effect] | None = None, **how: object) -> dict[str, str]:
    of = groups(effects or AS_IN_THE_PAPER, **how)  # type: ignore[arg-type]
    return {claim.name: claim.verdict for claim in decide_claims(of, base_group())}


def test_verdicts_follow_the_effects_that_were_put_in() -> None:
    found = decided(peaks={"orpo": 80})
    assert set(found.values()) == {HOLDS}
    named = ("orpo_parts", "half_the_forward_passes", "fewer_flops", "less_memory")
    assert set(named) <= found.keys()
    turned = (
        *("sft_raises_rejected", "orpo_lowers_rejected", "orpo_parts_more_than_sft"),
        *("orpo_accuracy_over_sft", "orpo_answers_over_sft"),
    )
    assert set(turned) <= found.keys()
    found = decided(TURNED)
    assert {found[name] for name in turned} == {REFUTED}
    same = decided({**AS_IN_THE_PAPER, "orpo": AS_IN_THE_PAPER["sft"]})
    assert same["orpo_parts_more_than_sft"] == same["orpo_accuracy_over_sft"] == OPEN


@pytest.mark.parametrize(
    ("ours", "seeds", "verdict"), [(80, 3, HOLDS), (120, 3, REFUTED), (100, 3, OPEN), (80, 1, OPEN)]
)
def test_memory_needs_more_than_one_run(ours: int, seeds: int, verdict: str) -> None:
    assert decided(seeds=seeds, peaks={"orpo": ours})["less_memory"] == verdict


def test_a_claim_about_the_same_runs_is_made_once_and_none_about_absent_ones() -> None:
    steps, flops = groups(budget="steps"), groups(budget="flops")
    flops[0] = replace(steps[0], budget="flops")  # ORPO's run is the measure of both
    found = decide_claims([*steps, *flops], base_group())
    assert [claim.budget for claim in found if claim.name == "orpo_parts"] == [""]
    alone = decide_claims(steps[:1], base_group())
    assert {claim.name for claim in alone} == {"orpo_lowers_rejected", "orpo_parts"}


def test_figures_are_those_of_the_runs() -> None:
    found = {claim.name: claim for claim in decide_claims(groups(), base_group())}
    claim = found["orpo_lowers_rejected"]
    assert claim.interval is not None
    assert claim.interval.value == pytest.approx(-0.5, abs=0.02)
    assert "−0.5" in claim.evidence
    assert found["half_the_forward_passes"].figures == "2.00 against 4.00"
    assert found["fewer_flops"].figures == "0.125 against 0.25 GFLOPs"


def test_seeds_that_disagree_widen_the_interval_and_shares_stay_shares() -> None:
    once = [float(n % 3 == 0) for n in range(60)]
    assert level_interval([once], PROMPTS) == mean_interval(once, PROMPTS)
    run = np.random.default_rng(0).normal(size=60)
    alike = level_interval([list(run)] * 3, PROMPTS)
    apart = level_interval([list(run + shift) for shift in (-1.0, 0.0, 1.0)], PROMPTS)
    assert apart.value == pytest.approx(alike.value)
    # Two degrees of freedom: 4.3 standard errors of 1 / sqrt(3), hardly more.
    assert 2.48 < apart.high - apart.value < 2.6
    assert alike.high - alike.value < 0.4
    found = level_interval([[1.0] * 60, [1.0] * 60, [1.0] * 55 + [0.0] * 5], PROMPTS)
    assert 0 < found.low < found.value < found.high <= 1


@pytest.mark.parametrize("spread", [0.0, 0.3])
@pytest.mark.parametrize("seeds", [2, 3])
def test_intervals_of_differences_cover(spread: float, seeds: int) -> None:
    """Simulated comparisons: a true difference of 0.3, prompts and seeds both drawn."""
    random = np.random.default_rng(7)
    trials, covered = 120, 0
    for _ in range(trials):
        prompt = random.normal(size=60)
        before = prompt + random.normal(0, spread, (seeds, 1)) + random.normal(0, 0.3, (seeds, 60))
        own = random.normal(0, 0.4, 60) + 0.3
        after = prompt + own + random.normal(0, spread, (seeds, 1))
        after = after + random.normal(0, 0.3, (seeds, 60))
        found = change_interval(before.tolist(), after.tolist(), PROMPTS)
        covered += found.low <= 0.3 <= found.high
    assert covered / trials >= 0.91  # two standard errors below 0.95


def test_a_base_model_stands_beside_every_seed_and_lengths_must_agree() -> None:
    runs = [[0.5 + n / 100 for n in range(60)], [1.0] * 60]
    assert change_interval([[0.0] * 60], runs, PROMPTS).value == pytest.approx(np.mean(runs))
    with pytest.raises(ValueError, match="pairs"):
        level_interval([[1.0, 0.0]], ["a"])
    with pytest.raises(ValueError, match="runs"):
        change_interval([[1.0]] * 2, [[1.0]] * 3, ["a"])
