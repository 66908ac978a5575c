"""Claims follow the figures: an effect that was put in is found, its opposite is refuted.

Intervals over prompts and seeds cover, and widen where seeds disagree; the page of a comparison
says in words, tables and figures what its JSON holds.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from orpo.evaluate.intervals import Interval, mean_interval
from orpo.experiments.claims import (
    HOLDS,
    OPEN,
    REFUTED,
    ArmResult,
    Group,
    change_interval,
    decide_claims,
    judged,
    level_interval,
    summarise,
)
from orpo.experiments.results import BASE, Arm, ComparisonResult, Cost, Outcome
from orpo.experiments.tasks import plan_arms
from orpo.report.comparison import comparison_page
from orpo.report.page import Page
from orpo.report.write import write_page
from orpo.runs.typed import plain, typed

PAIRS = 120
COSTS = {"orpo": 2.0, "sft": 1.0, "dpo": 3.0}
FORWARDS = {"orpo": (2, 0), "sft": (1, 0), "dpo": (2, 2)}
Effect = tuple[float, float, float]
"""What a method does to chosen and rejected log-probabilities, and its share of right answers."""

AS_IN_THE_PAPER: dict[str, Effect] = {
    BASE: (0.0, 0.0, 0.4),
    "orpo": (0.3, -0.5, 0.9),
    "sft": (0.3, 0.3, 0.6),
    "sft+dpo": (0.2, -0.2, 0.7),
}


def outcomes(
    effect: Effect,
    seed: int,
    noise: float = 0.05,
    *,
    apart: float = 0.0,
    count: int = PAIRS,
    world: int = 0,
    says: str = "answer {}",
) -> tuple[Outcome, ...]:
    """Held-out pairs, the same ones for every seed, after a method with this effect."""
    pairs, run = Random(world), Random(seed)
    found, own = [], (run.gauss(0, apart), run.gauss(0, apart))
    for row in range(count):
        chosen, rejected = pairs.gauss(-1.0, 0.3), pairs.gauss(-1.2, 0.3)
        luck = pairs.random()
        logps = (chosen + effect[0] + own[0] + run.gauss(0, noise), rejected + effect[1] + own[1])
        logps = (logps[0], logps[1] + run.gauss(0, noise))
        right = luck + (run.gauss(0, 0.2) if apart else 0) < effect[2]
        found.append(Outcome(row, f"prompt {row // 2}", *logps, says.format(row), right, ""))
    return tuple(found)


def stage_costs(arm: Arm, peak: int) -> tuple[Cost, ...]:
    """Counted as an engine would count them; a pair is 16 rows of a step."""
    return tuple(
        Cost(
            objective=stage.objective,
            steps=stage.steps,
            pairs=16 * stage.steps,
            forwards_trained=16 * stage.steps * FORWARDS[stage.objective][0],
            forwards_scored=16 * stage.steps * FORWARDS[stage.objective][1],
            flops=1e9 * stage.steps * COSTS[stage.objective],
            seconds=1.0 * stage.steps,
            idle_bytes=50 * 2**20,
            peak_bytes=(peak + arm.seed) * 2**20,
        )
        for stage in arm.stages
    )


def base_group(effects: Mapping[str, Effect] = AS_IN_THE_PAPER, **how: Any) -> Group:
    found = outcomes(effects[BASE], 0, **{"noise": 0.0, **how})
    return Group(BASE, "", (ArmResult(Arm(BASE, BASE, "", 0, []), (), found),))


def groups(
    effects: Mapping[str, Effect] = AS_IN_THE_PAPER,
    *,
    budget: str = "steps",
    seeds: int = 3,
    peaks: Mapping[str, int] | None = None,
    **how: Any,
) -> list[Group]:
    """Every method at one budget; `how` is of all outcomes, or of a method's by its name."""
    made: dict[str, list[ArmResult]] = {method: [] for method in effects if method != BASE}
    for arm in plan_arms(list(made), budget, range(1, seeds + 1), 40, COSTS):
        costs = stage_costs(arm, (peaks or {}).get(arm.method, 100))
        own = how.get(arm.method, {k: v for k, v in how.items() if k not in made})
        seed = 1000 * how.get("world", 0) + 10 * arm.seed + [*made].index(arm.method)
        found = outcomes(effects[arm.method], seed, **own)
        made[arm.method].append(ArmResult(arm, costs, found))
    return [Group(method, budget, runs) for method, runs in made.items()]


PROMPTS = [f"prompt {n}" for n in range(60)]
TURNED = AS_IN_THE_PAPER | {"orpo": AS_IN_THE_PAPER["sft"], "sft": AS_IN_THE_PAPER["orpo"]}


def decided(effects: dict[str, Effect] | None = None, **how: object) -> dict[str, str]:
    of = groups(effects or AS_IN_THE_PAPER, **how)
    return {claim.name: claim.verdict for claim in decide_claims(of, base_group())}


def test_verdicts_follow_the_effects_that_were_put_in() -> None:
    found = decided(peaks={"orpo": 80})
    assert set(found.values()) == {HOLDS}
    named = ("orpo_parts", "half_the_forward_passes", "fewer_flops", "less_memory")
    assert set(named) <= found.keys()
    turned = {"sft_raises_rejected", "orpo_lowers_rejected", "orpo_parts_more_than_sft"}
    turned |= {"orpo_accuracy_over_sft", "orpo_answers_over_sft"}
    assert turned <= found.keys()
    found = decided(TURNED)
    assert {found[name] for name in turned} == {REFUTED}
    same = decided({**AS_IN_THE_PAPER, "orpo": AS_IN_THE_PAPER["sft"]})
    assert same["orpo_parts_more_than_sft"] == same["orpo_accuracy_over_sft"] == OPEN


@pytest.mark.parametrize(
    ("ours", "seeds", "verdict"),
    [(80, 3, HOLDS), (120, 3, REFUTED), (100, 3, REFUTED), (80, 1, OPEN)],
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


# What is no evidence, and what a ruined model may not win

SAME = dict.fromkeys(AS_IN_THE_PAPER, AS_IN_THE_PAPER["orpo"]) | {BASE: (0.0, 0.0, 0.4)}
UNTRAINED = dict.fromkeys(AS_IN_THE_PAPER, (0.0, 0.0, 0.4))
RUINED = {"orpo": (-4.0, -9.0, 0.9), "sft": (-4.0, -9.0, 0.9), "sft+dpo": (-4.0, -9.0, 0.9)}
GIBBERISH = {"says": "the the the the the the the the the the the the the the the"}


def compared_in(
    effects: Mapping[str, Effect] = AS_IN_THE_PAPER, *, steps: int = 40, seeds: int = 3, **how: Any
) -> ComparisonResult:
    """What a comparison in a world of which everything is known makes of it."""
    shared = {name: how[name] for name in ("count", "world") if name in how}
    base, found = base_group(effects, **shared), groups(effects, seeds=seeds, **how)
    return judged(
        ComparisonResult(
            methods=["orpo", "sft", "sft+dpo"],
            budgets=["steps"],
            seeds=[*range(seeds)],
            steps=steps,
            table=[summarise(base, base), *(summarise(group, base) for group in found)],
            claims=decide_claims(found, base),
        )
    )


@pytest.mark.parametrize(
    ("world", "lacking"),
    [
        ({"steps": 8}, "8 steps (30 are the least)"),
        ({"seeds": 1}, "1 seed (3 are the least)"),
        ({"seeds": 2}, "2 seeds (3 are the least)"),
        ({"count": 12}, "6 held out prompts (20 are the least)"),
        ({"count": 2}, "1 held out prompt (20 are the least)"),
        ({"effects": UNTRAINED, "noise": 0.0}, "ORPO learned nothing that shows"),
        ({"effects": UNTRAINED, "noise": 0.02}, "ORPO learned nothing that shows"),
        ({"effects": AS_IN_THE_PAPER | RUINED}, "ORPO ruined its model: the chosen answers became"),
        ({"effects": {**AS_IN_THE_PAPER, "orpo": (float("nan"), 0.0, 0.0)}}, "no finite"),
        (
            {"orpo": GIBBERISH},
            "ORPO ruined its model: answers that do not read as text: 120 of 120",
        ),
    ],
)
def test_what_is_no_evidence_decides_nothing_and_says_so_first(
    world: dict[str, Any], lacking: str
) -> None:
    found = compared_in(**world)
    assert found.evidence is False
    assert lacking in "; ".join(found.lacking)
    assert {claim.verdict for claim in found.claims} == {OPEN}
    page = comparison_page(found)
    assert page.verdict.startswith("This is no evidence, and nothing is decided: ")
    assert lacking in page.verdict
    assert "reproduced" not in page.verdict
    assert {one.tone for one in page.headlines} <= {""}


@pytest.mark.parametrize(
    ("method", "how", "said"),
    [
        ("sft", {"effects": AS_IN_THE_PAPER | {"sft": RUINED["sft"]}}, "SFT ruined its model"),
        ("sft", {"effects": AS_IN_THE_PAPER | {"sft": UNTRAINED["sft"]}}, "SFT learned nothing"),
        ("sft+dpo", {"sft+dpo": GIBBERISH}, "SFT+DPO ruined its model"),
    ],
)
def test_nothing_is_won_against_a_model_that_is_ruined_or_untrained(
    method: str, how: dict[str, Any], said: str
) -> None:
    found = compared_in(**how)
    assert found.evidence is True
    name = method.replace("+", "_")
    about = [one for one in found.claims if one.name.endswith(("over_" + name, f"than_{name}"))]
    assert about
    assert {one.verdict for one in about} == {OPEN}
    assert all(said in one.evidence for one in about if "decided" in one.evidence)
    assert said in comparison_page(found).verdict
    decided = {one.name for one in found.claims if one.verdict == HOLDS}
    assert {"orpo_lowers_rejected", "orpo_parts"} <= decided


def test_who_wins_is_beyond_doubt_and_by_enough_to_count() -> None:
    """Chosen answers that lost a tenth of a nat: a doubt, with which a method may lose, not win."""
    found = compared_in(AS_IN_THE_PAPER | {"orpo": (-0.1, -1.5, 0.9)})
    won = {one.verdict for one in found.claims if one.name.startswith("orpo_")}
    assert won == {OPEN}
    lost = compared_in(AS_IN_THE_PAPER | {"sft+dpo": (-0.1, -0.3, 0.4)})
    assert {one.name: one.verdict for one in lost.claims}["orpo_answers_over_sft_dpo"] == HOLDS
    small = compared_in(AS_IN_THE_PAPER | {"sft": (0.3, -0.494, 0.9)}, noise=0.0)
    claims = {one.name: one for one in small.claims}
    assert claims["orpo_parts_more_than_sft"].interval.low > 0
    assert claims["orpo_parts_more_than_sft"].verdict == REFUTED  # 0.006 per token


@pytest.mark.parametrize("apart", [0.0, 0.1])
def test_comparisons_of_equal_methods_hardly_ever_claim_a_difference(apart: float) -> None:
    """Simulated: a claim is wrong in at most one of twenty; measured, in one of fifty."""
    claims = [
        claim.verdict == HOLDS or (claim.verdict == REFUTED and claim.interval.high < 0)
        for world in range(25)
        for claim in compared_in(SAME, world=world, apart=apart, noise=0.1, count=80).claims
        if "_over_" in claim.name or "_than_" in claim.name
    ]
    assert len(claims) == 25 * 5
    assert sum(claims) / len(claims) <= 0.05


def test_figures_are_those_of_the_runs() -> None:
    found = {claim.name: claim for claim in decide_claims(groups(), base_group())}
    claim = found["orpo_lowers_rejected"]
    assert claim.interval.value == pytest.approx(-0.5, abs=0.02)
    assert "−0.5" in claim.evidence
    assert found["half_the_forward_passes"].evidence.startswith("2.00 against 4.00 a pair")
    assert found["fewer_flops"].evidence.startswith("0.125 against 0.25 GFLOPs")


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


def test_a_base_model_stands_beside_every_seed() -> None:
    runs = [[0.5 + n / 100 for n in range(60)], [1.0] * 60]
    assert change_interval([[0.0] * 60], runs, PROMPTS).value == pytest.approx(np.mean(runs))


# The page

COST = {
    "objective": "orpo", "steps": 10, "pairs": 160, "forwards_trained": 320, "forwards_scored": 0,
    "flops": 1e12, "seconds": 3.5, "idle_bytes": 10**8, "peak_bytes": 2 * 10**8,
}  # fmt: skip
RUN = {
    "name": "orpo-steps-seed1", "method": "orpo", "budget": "steps", "seed": 1, "stages": [],
    "costs": [COST], "preference_accuracy": 0.75, "correct_answers": 0.5,
    "commands": ["orpo train --seed 1"],
}  # fmt: skip
CANARY = "<script>alert(1)</script> $x^2$ \x1b[31m"


def page_of(found: dict[str, Any]) -> Page:
    return comparison_page(typed(ComparisonResult, found, where="evaluation.json"))


def evaluation(effects: Any = AS_IN_THE_PAPER, **more: Any) -> dict[str, Any]:
    """What a job would have written."""
    base, found = base_group(effects), groups(effects)
    curves = [
        {
            **{"method": group.method, "budget": "steps", "seed": run.arm.seed},
            "objective": stage.objective,
            "points": [
                {"step": 20 * n + step, "chosen": -1.0 + step / 100, "rejected": -1.2 - step / 90}
                for step in (0, 10, 20)
            ],
        }
        for group in found
        for run in group.runs
        for n, stage in enumerate(run.arm.stages)
    ]
    cells = [
        {
            **{"objective": objective, "learning_rate": rate, "pairs": 88},
            "orpo_alpha": alpha if objective == "orpo" else None,
            "preference_accuracy": 0.5 + rate * 100 + alpha / 10,
            "correct_answers": 0.6,
            "cost": COST | {"objective": objective},
        }
        for objective in ("orpo", "sft", "dpo")
        for rate in (1e-4, 4e-4, 1e-3)
        for alpha in ((0.1, 0.5) if objective == "orpo" else (0.5,))
    ]
    answers = [
        {"name": BASE, "answer": CANARY, "correct": False, "reason": "refused"},
        {"name": "orpo", "answer": "4", "correct": True, "reason": "correct"},
    ]
    result = {
        **{"kind": "comparison", "model": "a model", "dataset": "pairs.jsonl"},
        **{"command": "orpo compare --seeds 3", "methods": ["orpo", "sft", "sft+dpo"]},
        **{"budgets": ["steps"], "seeds": [1, 2, 3], "steps": 40, "batch": 16, "seconds": 100},
        **{"orpo_alpha": 0.5, "dpo_beta": 0.1, "answered": 120},
        "learning_rates": {"orpo": 4e-4, "sft": 4e-4, "dpo": 4e-4},
        "held_out": {"rows_in": 123, "kept": 121, "nll_only": 1, "dropped": {"no_answer": 2}},
        "table": [summarise(base, base), *(summarise(group, base) for group in found)],
        "claims": decide_claims(found, base),
        "curves": curves,
        "sensitivity": cells,
        "runs": [RUN],
        "examples": {"rule": "evenly", "examples": [{"prompt": CANARY, "answers": answers}]},
        "machine": {"device": "cpu", "at_once": 2, "threads": 1},
        **more,
    }
    written: dict[str, Any] = json.loads(json.dumps(plain(result)))
    return written


def test_the_verdict_comes_first_in_words_and_says_what_is_not_reproduced() -> None:
    page = page_of(evaluation())
    assert page.verdict.startswith("At equal optimizer steps")
    for name in ("ORPO on ", "SFT on ", "SFT+DPO on ", "the base model on "):
        assert name in page.verdict
    assert "ORPO against SFT: +" in page.verdict
    assert "1 is not reproduced" in page.verdict  # memory: the peaks are the same
    (remark,) = [one for one in page.remarks if one.startswith("Not reproduced")]
    assert "less memory" in remark
    assert not any(remark.startswith("Undecided") for remark in page.remarks)
    assert dict(page.facts)["Held-out pairs"] == (
        "123 read, 120 scored (left out: no_answer: 2; no rejected answer: 1)"
    )
    # What is not reproduced is said plainly.
    page = page_of(evaluation(TURNED))
    said = [remark for remark in page.remarks if remark.startswith("Not reproduced")]
    assert any("ORPO prefers the chosen answer more often than SFT." in one for one in said)
    assert [one.tone for one in page.headlines][:2] == ["worse", "worse"]


def test_the_page_holds_everything_and_is_inert(tmp_path: Path) -> None:
    path = write_page(page_of(evaluation()), tmp_path)
    text = path.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "\x1b" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    for name in ("curves-steps", "outcomes", "sensitivity"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 1000
        assert (tmp_path / "figures" / f"{name}.svg").is_file()
    assert "orpo compare --seeds 3" in text
    assert "orpo train --seed 1" in text
    unfinished = page_of({"kind": "comparison", "settings": {}})
    assert "not finished" in unfinished.verdict
    assert write_page(unfinished, tmp_path / "unfinished").is_file()


def test_a_better_learning_rate_in_the_grid_is_named() -> None:
    cells = evaluation()["sensitivity"]
    for better, told in (
        (0.9, "SFT's 0.0004 reached 50.0\u00a0%, 0.0001 reached"),
        (0.6, "no other"),
    ):
        for cell in cells:
            value = better if cell["learning_rate"] == 1e-4 else 0.5
            interval = Interval(value, value - 0.1, value + 0.1, 88, 88)
            cell["preference_accuracy_interval"] = plain(interval)
        page = page_of(evaluation(sensitivity=cells))
        (said,) = [remark for remark in page.remarks if "Learning rates" in remark]
        assert told in said
