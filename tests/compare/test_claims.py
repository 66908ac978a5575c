"""Claims follow the figures: an effect that was put in is found, its opposite is refuted."""

from __future__ import annotations

import pytest

from orpo.experiments.compare import HOLDS, OPEN, REFUTED, Claim, decide_claims
from tests.compare.made import AS_IN_THE_PAPER, base_group, groups


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
    from dataclasses import replace

    found = decide_claims([*both[:3], *(replace(g, budget="flops") for g in flops)], base_group())
    parts = [claim for claim in found if claim.name == "orpo_parts"]
    assert [claim.budget for claim in parts] == [""]


def test_figures_are_those_of_the_runs() -> None:
    found = {claim.name: claim for claim in decide_claims(groups(), base_group())}
    claim = found["orpo_lowers_rejected"]
    assert claim.interval is not None
    assert claim.interval["value"] == pytest.approx(-0.5, abs=0.02)
    assert "−0.5" in claim.evidence
    assert found["half_the_forward_passes"].figures == "2.00 against 4.00"
    assert found["fewer_flops"].figures == "0.125 against 0.25 GFLOPs"


def test_without_sft_there_is_nothing_to_say_about_it() -> None:
    only = [group for group in groups() if group.method == "orpo"]
    assert decided(decide_claims(only, base_group())).keys() == {
        "orpo_lowers_rejected",
        "orpo_parts",
    }
