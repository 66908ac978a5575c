"""Planted diseases are found, healthy noise is left alone, and every word has its number."""

import math
import random
from dataclasses import replace

import pytest

from orpo.report.diagnosis import RULES, Finding, diagnose, summary
from orpo.report.series import Observed, read_curves
from orpo.runs.curves import Series, loss_spike, loss_spikes
from tests.report.planted import DISEASED, HEALTHY, Logged, Truth, lines_of, seen

SHORT, USUAL, LONG = Logged(12, 0.03, 0.0, 0), Logged(), Logged(400, 0.2, 0.3, 8)


def applied(observed: Observed) -> set[str]:
    return {one.name for one in diagnose(observed) if one.verdict == "look"}


def of(name: str, observed: Observed) -> Finding:
    return next(one for one in diagnose(observed) if one.name == name)


@pytest.mark.parametrize(
    ("logged", "seeds", "most"),
    [
        *((logged, 40, 1) for logged in (SHORT, USUAL, LONG)),
        *(
            (Logged(steps, 0.3, memory, 5 if steps > 20 else 0), 30, 2)
            for steps in (8, 30, 100)
            for memory in (0.0, 0.5)
        ),
    ],
)
def test_false_alarms_are_rare(logged: Logged, seeds: int, most: int) -> None:
    """Over 400 of each: none, but 4 at 100 loud steps whose noise remembers half of the last's."""
    assert sum(bool(applied(seen(HEALTHY, logged, seed))) for seed in range(seeds)) <= most


@pytest.mark.parametrize("disease", DISEASED)
def test_a_planted_disease_is_found(disease: str) -> None:
    for logged, enough in ((USUAL, 9), (LONG, 9), (SHORT, 0 if disease == "overfitting" else 6)):
        found = [disease in applied(seen(DISEASED[disease], logged, seed)) for seed in range(10)]
        assert sum(found) >= enough


@pytest.mark.parametrize("disease", sorted(DISEASED.keys() - {"length_creep", "overfitting"}))
def test_the_opposite_disease_is_not_found(disease: str) -> None:
    opposite = {
        "learning_rate_too_low": "learning_rate_too_high",
        "learning_rate_too_high": "learning_rate_too_low",
        "orpo_alpha_too_low": "orpo_alpha_too_high",
        "orpo_alpha_too_high": "orpo_alpha_too_low",
        "chosen_falls": "orpo_alpha_too_low",
    }[disease]
    for seed in range(10):
        assert opposite not in applied(seen(DISEASED[disease], USUAL, seed))


@pytest.mark.parametrize("disease", DISEASED)
def test_a_finding_shows_its_numbers_and_what_to_try(disease: str) -> None:
    found = of(disease, seen(DISEASED[disease], USUAL, 3))
    assert found.verdict == "look"
    assert sum(c.isdigit() for c in found.evidence) >= 4
    assert found.evidence.endswith(".")
    assert found.advice.endswith(".")
    assert any(word in found.advice for word in ("learning_rate", "orpo_alpha", "epochs", "audit"))


def test_a_healthy_run_says_what_was_looked_at() -> None:
    observed = seen(HEALTHY, USUAL, 0)
    found = diagnose(observed)
    assert {one.verdict for one in found} == {"ok"}
    assert len(found) == len(RULES)
    assert summary(observed, found) == "Healthy, as far as can be seen: none of 8 rules applies."
    for word in ("worse", "doubtful"):
        assert summary(observed, found, word).startswith("No rule explains it, but ")
    loss = next(one for one in found if one.name == "learning_rate_too_high")
    assert "(steps 1 to 100, noise ±" in loss.evidence
    assert all(not one.advice for one in found)


def test_what_was_not_logged_is_not_judged() -> None:
    nothing = Observed(read_curves([]))
    assert {one.verdict for one in diagnose(nothing)} == {"unknown"}
    assert summary(nothing, diagnose(nothing)).startswith("Too little was logged")
    few = Observed(read_curves(lines_of(DISEASED["learning_rate_too_high"], Logged(7), 0)[:7]))
    assert of("learning_rate_too_high", few).verdict == "unknown"
    early = replace(seen(DISEASED["learning_rate_too_low"], USUAL, 0), halfway=False)
    assert of("learning_rate_too_low", early).verdict == "unknown"


def test_other_objectives_have_no_lambda() -> None:
    sft = replace(seen(DISEASED["orpo_alpha_too_low"], USUAL, 0), objective="sft")
    assert {of(f"orpo_alpha_too_{way}", sft).verdict for way in ("low", "high")} == {"unknown"}
    dpo = replace(seen(DISEASED["chosen_falls"], USUAL, 0), objective="dpo")
    assert "orpo_alpha" not in of("chosen_falls", dpo).advice


def test_nothing_is_left_to_learn_is_no_low_learning_rate() -> None:
    done = Truth(chosen=lambda d: -0.2, rejected=lambda d: -4.0)
    assert "learning_rate_too_low" not in applied(seen(done, USUAL, 0))


def test_spikes_are_those_that_the_guard_tells_while_training() -> None:
    draw = random.Random(5)
    losses = [2 - i / 200 + draw.gauss(0, 0.05) for i in range(150)]
    for step in (20, 60, 61, 140):
        losses[step] += 3
    told = {
        step + 1.0
        for step in range(len(losses))
        if loss_spike(losses[max(0, step - 20) : step + 1]) is not None
    }
    found = loss_spikes(Series("loss", None, {i + 1.0: loss for i, loss in enumerate(losses)}))
    assert set(found) == told >= {21.0, 61.0, 141.0}


def test_signs_of_a_high_learning_rate_one_by_one() -> None:
    plain = lines_of(HEALTHY, Logged(60, 0.02, 0.0, 0), 1)
    spikes = [dict(line) for line in plain]
    for step in (20, 35):
        spikes[step]["loss"] += 4
    assert "2 loss spikes, at steps 21 and 36" in rate_of(spikes)
    broken = [dict(line) for line in plain]
    broken[30]["loss"] = math.nan
    assert "NaN or infinite at 1 logged step, first at step 31" in rate_of(broken)
    turned = [line | {"loss": 2 - line["step"] / 40} for line in plain]
    for line in turned[30:]:
        line["loss"] = 1.25 + (line["step"] - 30) / 60
    assert "fell, then rose" in rate_of(turned)
    jumped = [line | {"loss": 9 - line["step"] / 20} for line in plain]
    jumped[0]["loss"] = 2.0
    assert "jumped from 2.00 at step 1" in rate_of(jumped)
    events = Observed(read_curves(plain), events=[(40.0, "margin_collapse")])
    assert "Margin collapse, told at step 40" in of("learning_rate_too_high", events).evidence


def rate_of(lines: list[dict[str, float]]) -> str:
    found = of("learning_rate_too_high", Observed(read_curves(lines)))
    assert found.verdict == "look"
    return found.evidence


def test_held_out_pairs_of_another_kind_are_no_high_learning_rate() -> None:
    lines = lines_of(HEALTHY, Logged(60, 0.02, 0.0, 0), 1)
    lines += [{"step": 0, "eval_loss": 1.0}, {"step": 60, "eval_loss": 1.4}]
    assert applied(Observed(read_curves(lines))) == {"overfitting"}
    assert "does not carry over" in of("overfitting", Observed(read_curves(lines))).advice


def test_one_bad_evaluation_is_no_overfitting() -> None:
    lines = lines_of(HEALTHY, Logged(60, 0.02, 0.0, 10), 1)
    for line in lines:
        if line["step"] == 30 and "eval_loss" in line:
            line["eval_loss"] += 0.5
            line["eval_nll_loss"] += 0.5
    assert applied(Observed(read_curves(lines))) == set()


def test_growth_that_a_few_answers_explain_is_no_creep() -> None:
    observed = seen(HEALTHY, USUAL, 0)
    grown = replace(observed, lengths=[(50, 50, 50)] * 95 + [(50, 5000, 50)] * 5)
    assert "length_creep" not in applied(grown)
    empty = replace(observed, lengths=[(0, 80, 10)] * 30)
    assert of("length_creep", empty).verdict == "unknown"
