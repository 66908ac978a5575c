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
from orpo.experiments.comparison import Claim
from tests.experiments.made import AS_IN_THE_PAPER, base_group, groups


def decided(found: list[Claim]) -> dict[str, str]:
    return {claim.name: claim.verdict for claim in found}


def test_a_world_as_in_the_paper() -> None:
    found = decide_claims(groups(peaks={"orpo": 80}), base_group())
    assert set(decided(found).values()) == {HOLDS}
    assert {
        "sft_raises_rejected",
        "orpo_parts",
        "orpo_accuracy_over_sft",
        "orpo_answers_over_sft",
        "half_the_forward_passes",
        "fewer_flops",
        "less_memory",
    } <= decided(found).keys()


def test_a_world_in_which_sft_does_what_orpo_should() -> None:
    turned = {
        **AS_IN_THE_PAPER,
        "orpo": AS_IN_THE_PAPER["sft"],
        "sft": AS_IN_THE_PAPER["orpo"],
    }
    found = decided(decide_claims(groups(turned), base_group()))
    for name in (
        "sft_raises_rejected",
        "orpo_lowers_rejected",
        "orpo_parts_more_than_sft",
        "orpo_accuracy_over_sft",
        "orpo_answers_over_sft",
    ):
        assert found[name] == REFUTED, name


def test_what_cannot_be_told_is_left_open() -> None:
    same = {**AS_IN_THE_PAPER, "orpo": AS_IN_THE_PAPER["sft"]}
    found = decided(decide_claims(groups(same), base_group()))
    assert found["orpo_parts_more_than_sft"] == OPEN
    assert found["orpo_accuracy_over_sft"] == OPEN


@pytest.mark.parametrize(
    ("ours", "seeds", "verdict"), [(80, 3, HOLDS), (120, 3, REFUTED), (100, 3, OPEN), (80, 1, OPEN)]
)
def test_memory_needs_more_than_one_run(ours: int, seeds: int, verdict: str) -> None:
    found = decided(decide_claims(groups(seeds=seeds, peaks={"orpo": ours}), base_group()))
    assert found["less_memory"] == verdict


def test_a_claim_about_the_same_runs_is_made_once() -> None:
    both = [*groups(budget="steps"), *groups(budget="flops")]
    steps = {group.method: group for group in both[:3]}
    flops = [steps["orpo"] if g.method == "orpo" else g for g in both[3:]]
    found = decide_claims([*both[:3], *(replace(g, budget="flops") for g in flops)], base_group())
    parts = [claim for claim in found if claim.name == "orpo_parts"]
    assert [claim.budget for claim in parts] == [""]


def test_figures_are_those_of_the_runs() -> None:
    found = {claim.name: claim for claim in decide_claims(groups(), base_group())}
    claim = found["orpo_lowers_rejected"]
    assert claim.interval is not None
    assert claim.interval.value == pytest.approx(-0.5, abs=0.02)
    assert "−0.5" in claim.evidence
    assert found["half_the_forward_passes"].figures == "2.00 against 4.00"
    assert found["fewer_flops"].figures == "0.125 against 0.25 GFLOPs"


def test_without_sft_there_is_nothing_to_say_about_it() -> None:
    only = [group for group in groups() if group.method == "orpo"]
    assert decided(decide_claims(only, base_group())).keys() == {
        "orpo_lowers_rejected",
        "orpo_parts",
    }


# Intervals

PROMPTS = [f"prompt {n}" for n in range(60)]


def test_one_run_has_the_interval_over_prompts() -> None:
    run = [float(n % 3 == 0) for n in range(60)]
    assert level_interval([run], PROMPTS) == mean_interval(run, PROMPTS)


def test_seeds_that_disagree_widen_the_interval() -> None:
    random = np.random.default_rng(0)
    run = random.normal(size=60)
    alike = level_interval([list(run)] * 3, PROMPTS)
    apart = level_interval([list(run + shift) for shift in (-1.0, 0.0, 1.0)], PROMPTS)
    assert apart.value == pytest.approx(alike.value)
    # Two degrees of freedom: 4.3 standard errors of 1 / sqrt(3), hardly more.
    assert 2.48 < apart.high - apart.value < 2.6
    assert alike.high - alike.value < 0.4


def test_a_base_model_stands_beside_every_seed() -> None:
    base, runs = [[0.0] * 60], [[0.5 + n / 100 for n in range(60)], [1.0] * 60]
    found = change_interval(base, runs, PROMPTS)
    assert found.value == pytest.approx(np.mean(runs))


def test_shares_stay_shares() -> None:
    runs = [[1.0] * 60, [1.0] * 60, [1.0] * 55 + [0.0] * 5]
    found = level_interval(runs, PROMPTS)
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


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="pairs"):
        level_interval([[1.0, 0.0]], ["a"])
    with pytest.raises(ValueError, match="runs"):
        change_interval([[1.0]] * 2, [[1.0]] * 3, ["a"])
