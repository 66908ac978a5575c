"""Which runs there are, and that both budgets are what they are called."""

from __future__ import annotations

import pytest

from orpo.errors import ConfigError
from orpo.experiments.compare import METHODS, plan_arms, read_names

COSTS = {"orpo": 10.0, "sft": 6.0, "dpo": 13.0}


def test_equal_steps_divide_them_between_the_stages() -> None:
    arms = plan_arms(METHODS, "steps", [7, 8], 100, {})
    assert [arm.name for arm in arms] == [
        "orpo-steps-seed7",
        "sft-steps-seed7",
        "sft+dpo-steps-seed7",
        "orpo-steps-seed8",
        "sft-steps-seed8",
        "sft+dpo-steps-seed8",
    ]
    assert {sum(stage.steps for stage in arm.stages) for arm in arms} == {100}
    sft, dpo = arms[2].stages
    assert (sft.objective, sft.steps, sft.start) == ("sft", 50, "")
    assert (dpo.objective, dpo.steps, dpo.start) == ("dpo", 50, sft.folder)
    assert {arm.stages[0].start for arm in arms} == {""}


@pytest.mark.parametrize("method", METHODS)
def test_equal_flops_cost_as_much_as_orpo_within_a_step(method: str) -> None:
    (arm,) = plan_arms([method], "flops", [0], 100, COSTS)
    spent = sum(stage.steps * COSTS[stage.objective] for stage in arm.stages)
    of_a_step = sum(COSTS[stage.objective] for stage in arm.stages)
    assert abs(spent - 100 * COSTS["orpo"]) <= of_a_step / 2
    assert len({stage.steps for stage in arm.stages}) == 1


def test_too_few_steps_to_divide() -> None:
    with pytest.raises(ConfigError, match="--max_steps"):
        plan_arms(["sft+dpo"], "steps", [0], 1, {})


@pytest.mark.parametrize("text", ["orpo,dpo", "", "orpo,orpo", ","])
def test_names_that_cannot_be_meant(text: str) -> None:
    with pytest.raises(ConfigError, match="--methods"):
        read_names(text, METHODS, "--methods")


def test_names_are_read_as_people_write_them() -> None:
    assert read_names(" ORPO, sft+dpo ", METHODS, "--methods") == ("orpo", "sft+dpo")
