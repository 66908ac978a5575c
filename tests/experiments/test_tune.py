"""The runs, the study and the choice of a tuning."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerCallback

from orpo import ORPOConfig
from orpo.errors import ConfigError, RunStopped, TrainingError
from orpo.evaluate.preference.pairs import RowFacts, ScoredPairs
from orpo.evaluate.results import Change
from orpo.experiments import claims
from orpo.experiments import study as studies
from orpo.experiments.choice import Choice, choose, final_test, lacking, verdict_of
from orpo.experiments.claims import pair_scores
from orpo.experiments.plans import TuneJob, TunePlan
from orpo.experiments.results import (
    FinalTest,
    Measure,
    Outcome,
    Space,
    TrialResult,
    Values,
    read_tuning,
)
from orpo.experiments.study import JOURNAL, Place, Study
from orpo.experiments.trials import Runs, Speed
from orpo.experiments.tune import Budget, run_tune
from orpo.jobs import TrainJob, run_training
from orpo.runs.files import read_run
from orpo.runs.typed import plain
from tests.train.small import byte_tokenizer, text_rows, tiny_llama

STEPS = 6
SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "orpo_alpha": 0.5,
    "per_device_train_batch_size": 4,
    "max_length": 128,
    "num_train_epochs": 1,
    "warmup_steps": 2,
    "use_cpu": True,
}
START = Values(1e-3, 0.5)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and forty pairs."""
    folder = tmp_path_factory.mktemp("tune")
    tiny_llama().save_pretrained(folder / "base")
    byte_tokenizer().save_pretrained(folder / "base")
    lines = [json.dumps(row) + "\n" for row in text_rows(40)]
    (folder / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def job(place: Path, folder: Path, **changes: Any) -> TuneJob:
    train = TrainJob(model=str(place / "base"), dataset=[str(place / "pairs.jsonl")], held_out=0.4)
    settings = changes.pop("settings", SETTINGS)
    return TuneJob(train, settings, folder, TunePlan(**{"trials": 3, "steps": STEPS, **changes}))


def unheard(_line: str) -> None:
    """Nobody listens."""


def study_prunes() -> None:
    raise optuna.TrialPruned


# The runs


@pytest.mark.parametrize("lora_r", [None, 2])
def test_a_trial_computes_what_orpo_train_computes(
    place: Path, tmp_path: Path, lora_r: int | None
) -> None:
    """After other runs in the same process, and with its looks on the way."""
    losses: list[tuple[int, float]] = []

    class Losses(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            losses.extend([(state.global_step, logs["loss"])] if "loss" in logs else [])

    made = job(place, tmp_path / "out")
    made = replace(made, train=replace(made.train, lora_r=lora_r))
    runs = Runs(made, callbacks=lambda: [Losses()])
    with pytest.raises(optuna.TrialPruned):
        runs.run(Values(3e-2, 2.0), STEPS, 7, lambda *_: study_prunes())
    losses.clear()
    looked: list[int] = []
    done = runs.run(START, STEPS, 42, lambda step, _: looked.append(step))
    assert looked == [3, 4]
    config = ORPOConfig(
        **SETTINGS, output_dir=str(tmp_path / "run"), max_steps=STEPS, logging_steps=2, seed=42
    )
    run_training(replace(made.train, samples=0), config, say=unheard)
    alone = [(one["step"], one["loss"]) for one in read_run(tmp_path / "run").training]
    assert losses == alone
    assert len(alone) == 3
    assert done.account["pairs"] == runs.sizes["choosing"]
    assert sum(runs.sizes.values()) == 40
    rows = (runs._train, runs._choosing, runs._test)
    sides = [{tuple(row["prompt_ids"]) for row in side} for side in rows]
    assert all(sides)
    assert len(set().union(*sides)) == sum(map(len, sides)), "a prompt is on one side alone"
    warm_up = [runs._warmup(steps) for steps in (3, 6, 60)]
    assert warm_up == [1, 2, 20]  # as large a part as of the recipe's six steps


# The score


@given(st.floats(-60, -1e-6), st.floats(-60, -1e-6))
def test_the_score_is_the_loss_of_the_paper_with_one_lambda(chosen: float, rejected: float) -> None:
    """Held to fifty digits of the paper's own equations."""
    with mpmath.workdps(50):
        odds = [mpmath.e**one / (1 - mpmath.e**one) for one in map(mpmath.mpf, (chosen, rejected))]
        ratio = odds[0] / odds[1]
        expected = chosen + 0.1 * mpmath.log(ratio / (1 + ratio))
    (score,) = pair_scores([chosen], [rejected])
    assert score == pytest.approx(float(expected), rel=1e-9, abs=1e-12)
    assert score <= 0


# The choice

PROMPTS = [f"prompt {n}" for n in range(40)]
LEVELS = [-0.5 - n % 7 / 10 for n in range(40)]
NOISE = [level + (0.2 if n % 2 else -0.21) for n, level in enumerate(LEVELS)]
FAR = [level - 1.0 for level in LEVELS]
WORSE = Change(-0.3, -0.4, -0.2, 40, 40)


def chosen(*levels: list[float], rates: tuple[float, ...] = (1e-3, 1e-4, 3e-4)) -> Choice | None:
    """Among whole trials whose chosen answers have these log-probabilities; the first starts."""
    trials = [TrialResult(9, 1.0, 1.0, "failed", reason="NaN")]
    trials += [TrialResult(8, 1e-3, 0.5, "pruned", score=-1.0)]
    for number, (own, rate) in enumerate(zip(levels, rates, strict=False)):
        rejected = [level - 1.0 for level in own]
        score = float(pair_scores(own, rejected).mean())
        result = TrialResult(number, rate, 0.1, "complete", number == 0, score, 9)
        trials.append(replace(result, chosen=own, rejected=rejected))
    return choose(trials, PROMPTS)


def test_what_is_clearly_behind_is_not_near_and_of_equal_trials_the_first_is_the_best() -> None:
    choice = chosen([level - 0.1 for level in LEVELS], LEVELS, NOISE, rates=(1e-5, 1e-4, 3e-4))
    assert choice.best.number == 1
    assert [one.number for one in choice.near] == [1, 2]
    assert choice.band == {"learning_rate": [1e-4, 3e-4], "orpo_alpha": [0.1, 0.1]}
    assert choice.band_words == "learning rate 0.0001 to 0.0003, lambda 0.1 (2 trials)"
    assert choice.edges(Space([1e-5, 1e-2], [0.01, 2.0])) == []
    edges = [["learning_rate", "lowest"], ["orpo_alpha", "highest"]]
    assert choice.edges(Space([9e-5, 1e-2], [0.01, 0.11])) == edges
    equal = chosen(LEVELS, LEVELS)
    assert (equal.best.number, len(equal.near)) == (0, 2)
    assert chosen() is None


@pytest.mark.parametrize(
    ("low", "high", "verdict", "kept"),
    [
        (0.01, 0.2, "better", False),
        (-0.2, 0.2, "cannot be told apart", True),
        (0.001, 0.009, "cannot be told apart", True),  # too small to count
        (-0.2, -0.01, "worse", True),
        (-math.inf, math.inf, "cannot be told apart", True),
    ],
)
def test_the_start_stands_unless_the_test_says_that_the_best_is_better(
    low: float, high: float, verdict: str, kept: bool
) -> None:
    middle = (low + high) / 2 if math.isfinite(low) else 0.0
    change, choice = Change(middle, low, high, 40, 40), chosen(FAR, LEVELS)
    test = FinalTest({}, [1, 2, 3], [], {"score": Measure(change, change, change)})
    assert verdict_of(START, choice, test)[:2] == (verdict, kept)
    for broken in (
        replace(test, against=["its answers repeat themselves"]),
        replace(test, measures={}, against=["a run of the test broke: NaN"]),
        replace(test, measures=test.measures | {"correct_answers": Measure(WORSE, WORSE, WORSE)}),
    ):
        assert verdict_of(START, choice, broken)[1] is True, "better by the score alone"
    assert verdict_of(START, choice, test, ["5 steps"])[:2] == ("no evidence", True)
    assert verdict_of(START, choice, None)[:2] == ("not compared", True)
    assert verdict_of(START, choice, None, broke="NaN")[:2] == ("not compared", False)
    near = chosen(NOISE, LEVELS)  # the trials tell nothing apart from the start
    assert near.best.number == 1
    assert verdict_of(START, near, None)[:2] == ("cannot be told apart", True)


def untrained(levels: list[float]) -> ScoredPairs:
    """What the model does before any training."""
    values = {n: (level, level - 1.0) for n, level in enumerate(levels)}
    columns = (np.array([one[i] for one in values.values()]) for i in (0, 1))
    facts = {n: RowFacts(prompt) for n, prompt in enumerate(PROMPTS)}
    return ScoredPairs.of(np.arange(len(levels)), [*columns], facts, dict.fromkeys(values, (3, 3)))


@pytest.mark.parametrize(
    ("levels", "before", "how", "said"),
    [
        ((FAR, LEVELS), FAR, {}, ""),
        ((FAR, LEVELS), FAR, {"steps": 5}, "5 steps (30 are the least)"),
        ((FAR, LEVELS), FAR, {"prompts": ["one"] * 40}, "1 held out prompt (20 are the least)"),
        ((FAR, LEVELS), LEVELS, {}, "no trial is better than no training"),
        ((FAR, NOISE), LEVELS, {}, "no trial is better than no training"),
        ((FAR, FAR), LEVELS, {}, "the best trial ruined its model: the chosen answers became"),
    ],
)
def test_a_search_that_is_no_evidence_says_what_it_lacks(
    levels: tuple[list[float], ...], before: list[float], how: dict[str, Any], said: str
) -> None:
    choice = chosen(*levels)
    told = {"steps": 40, "prompts": PROMPTS, **how}
    tried = [choice.best, *choice.near]
    missing = lacking(tried, choice, told["steps"], told["prompts"], untrained(before))
    assert said in "; ".join(missing)
    assert bool(missing) == bool(said)


def test_the_test_is_not_fooled_by_the_best_of_many() -> None:
    """Two equal recipes, trained with three seeds each: that one is better is hardly ever said."""

    def run(seed: int) -> list[Outcome]:
        random, pairs = np.random.default_rng(seed), np.random.default_rng(seed // 1000)
        levels = pairs.normal(-1.0, 0.3, (40, 2)) + random.normal(0, 0.05, 2)
        rows = (levels + random.normal(0, 0.05, (40, 2))).tolist()
        return [Outcome(n, PROMPTS[n], *map(float, row)) for n, row in enumerate(rows)]

    wrong = 0
    for world in range(40):
        sides = ([run(1000 * world + 10 * side + seed) for seed in range(3)] for side in (0, 1))
        test = final_test({}, [1, 2, 3], *sides)
        wrong += not verdict_of(START, chosen(FAR, LEVELS), test)[1]
    assert wrong <= 2


# The budget


def test_steps_are_as_many_as_leave_time_for_eight_trials_and_the_test() -> None:
    speed = Speed(step=0.5, around=1.0, testing=10.0)
    steps = Budget(10).plan_steps(TunePlan(), speed, 1000)
    assert 8 * speed.run(steps) + speed.comparison(steps) == pytest.approx(600, rel=0.02)
    assert Budget(10).plan_steps(TunePlan(), speed, 30) == 30  # never longer than the recipe
    assert Budget(10).plan_steps(TunePlan(steps=7), speed, 1000) == 7
    assert Budget(None).plan_steps(TunePlan(trials=5), speed, 1000) == 250
    assert (TunePlan().limit, TunePlan(trials=5).limit) == (10, None)
    slow = Speed(step=3.0, around=1.0, testing=10.0)
    with pytest.raises(ConfigError, match=r"trial of 30 steps takes about 93 s.*at least 14\."):
        Budget(1).plan_steps(TunePlan(), slow, 1000)


def test_a_trial_is_begun_only_if_the_test_fits_behind_it() -> None:
    speed = Speed(step=1.0, around=0.0, testing=5.0)
    budget = Budget(10)
    budget.begun -= 600 - 101  # 101 s are left
    assert budget.allows(speed, 10)  # 10 + 6 x (10 + 5)
    assert not budget.allows(speed, 11)
    budget.whole.append(12.0)  # trials turned out to take longer
    assert not budget.allows(speed, 10)


# The study


def begun(
    folder: Path, seed: int = 1, storage: str = "", **space: tuple[float, float]
) -> tuple[Place, Study]:
    folder.mkdir(parents=True, exist_ok=True)
    at = Place(storage, "orpo", folder)
    ranges = {"learning_rate": (1e-4, 1e-2), "orpo_alpha": (0.01, 2.0), **space}
    settings = {"space": ranges, "start": plain(START), "seed": seed}
    return at, Study.begin(at, json.loads(json.dumps(settings)), STEPS)


def drawn(study: Study, count: int = 1) -> list[Values]:
    """The values of so many trials, which score better the nearer they are to 3e-4."""
    return [
        study.run(lambda _, values: -abs(math.log(values.learning_rate / 3e-4))).values
        for _ in range(count)
    ]


def test_the_first_trial_is_what_the_user_had_also_outside_of_the_range(tmp_path: Path) -> None:
    _, study = begun(tmp_path, learning_rate=(1e-6, 1e-5))
    first, *others = drawn(study, 9)
    assert first == START
    assert all(1e-6 <= one.learning_rate <= 1e-5 for one in others)
    assert all(0.01 <= one.orpo_alpha <= 2.0 for one in others)
    results = study.tried()
    assert [one.start for one in results] == [True] + [False] * 8
    assert results[0].values == START


def test_a_seed_decides_what_is_drawn_but_not_for_processes_that_join(tmp_path: Path) -> None:
    studies = [begun(tmp_path / name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    one, same, other = (drawn(study, 8) for _, study in studies)
    assert one == same
    assert one[0] == other[0]
    assert one[1:] != other[1:]
    joined = [Study.find(studies[0][0]) for _ in range(3)]
    assert len({drawn(found)[0] for found in joined if found}) == 3


def test_a_killed_process_loses_its_trial_for_a_while_only(tmp_path: Path) -> None:
    """Two children are killed in a trial each: in the start, and in one that was drawn."""
    at, study = begun(tmp_path)
    for _ in range(2):
        child = os.fork()
        if child == 0:
            study.run(lambda *_: os.kill(os.getpid(), signal.SIGKILL) or 0.0)
        os.waitpid(child, 0)
    found = Study.find(at)
    before = found.tried()
    assert [one.state for one in before] == ["running", "running"]
    assert found.sweep() == 2
    assert found.sweep() == 0
    assert drawn(found, 2) == [one.values for one in before]
    results = found.tried()
    assert [one.state for one in results] == ["cut off", "cut off", "complete", "complete"]
    assert [one.start for one in results] == [True, False, True, False]


def test_trials_that_run_elsewhere_are_left_alone(tmp_path: Path) -> None:
    _, study = begun(tmp_path)

    def elsewhere(trial: optuna.Trial, values: Values) -> float:
        for host in ("another-host 1", f"{studies.socket.gethostname()} {os.getpid()}"):
            trial.set_user_attr("worker", host)
            assert study.sweep() == 0
        return 0.0

    assert study.run(elsewhere).number == 0


@pytest.mark.parametrize("storage", ["", "shared.journal", "sqlite:///shared.db"])
def test_who_comes_second_joins(
    tmp_path: Path, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    at, first = begun(tmp_path / "one", storage=storage)
    second = at if not storage else replace(at, folder=tmp_path / "two")
    joined = Study.begin(second, {"seed": 9, "never": "looked at"}, 99)
    assert (joined.steps, joined.details) == (STEPS, first.details)
    numbers = {study.run(lambda *_: 0.0).number for study in (first, joined, first)}
    assert numbers == {0, 1, 2}
    assert (tmp_path / "one" / JOURNAL).is_file() == (storage == "")


def test_a_storage_that_cannot_be_used_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "_PATIENCE", -1.0)
    foreign = f"sqlite:///{tmp_path / 'other.db'}"
    optuna.create_study(study_name="orpo", storage=foreign)
    for storage, said in (
        ("sqlite:////nowhere/at/all/study.db", "cannot be used"),
        ("nonsense://study", "cannot be used"),
        (str(tmp_path / "no" / "such" / "folder" / "study.journal"), "cannot be used"),
        (foreign, "not of orpo tune"),
    ):
        with pytest.raises(ConfigError, match=rf"--storage.*{said}") as error:
            Study.find(Place(storage, "orpo", tmp_path))
        assert "\n" not in str(error.value)
    shown = Place("postgresql://me:secret@host:5432/db", "orpo", tmp_path).public
    assert shown == "postgresql://***@host:5432/db"


# The whole of it


class Signalled(TrainerCallback):
    """Sends a signal to its own process in the second run that is longer than the probe's."""

    runs = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        Signalled.runs += 1

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if Signalled.runs == 3 and state.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)


def test_what_is_interrupted_goes_on(place: Path, tmp_path: Path) -> None:
    made = job(place, tmp_path / "out")
    Signalled.runs = 0
    with pytest.raises(RunStopped, match="1 trials are kept") as stopped:
        run_tune(made, say=unheard, callbacks=lambda: [Signalled()])
    assert stopped.value.signal_number == signal.SIGINT
    assert (made.folder / "recipe.yaml").is_file()
    kept = read_tuning(made.folder)
    assert kept.finished is False
    assert kept.account["cut off"] == 1
    result = run_tune(made, say=unheard)
    assert result.finished is True
    assert result.account["complete"] + result.account["pruned"] == made.plan.trials
    assert result.account["cut off"] == 1
    results = {one.number: one for one in result.trials}
    assert results[1].state == "cut off"
    assert results[2].values == results[1].values
    assert plain(read_tuning(made.folder)) == plain(result)


def test_a_signal_in_the_test_keeps_what_the_trials_found(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = job(place, tmp_path / "out", trials=2)
    found = Runs.run

    def far_apart(self: Runs, values: Values, *how: Any) -> Any:
        pairs = found(self, values, *how)
        return pairs if values != START else replace(pairs, chosen=pairs.chosen - 9)

    for name in ("FEWEST_STEPS", "FEWEST_PAIRS"):
        monkeypatch.setattr(claims, name, 1)
    monkeypatch.setattr(Runs, "run", far_apart)
    monkeypatch.setattr(Runs, "test", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(RunStopped, match="2 trials are kept") as stopped:
        run_tune(made, say=unheard)
    assert stopped.value.signal_number == signal.SIGTERM
    kept = read_tuning(made.folder)
    assert (kept.finished, kept.comparison) == (False, None)
    assert (made.folder / "recipe.yaml").is_file()


def test_what_breaks_is_counted_with_its_reason(place: Path, tmp_path: Path) -> None:
    made = job(place, tmp_path / "out", trials=2, learning_rates=(1e25, 1e30))
    result = run_tune(made, say=unheard)
    assert (result.account["failed"], result.account["complete"]) == (1, 1)
    (broken,) = [one for one in result.trials if one.state == "failed"]
    assert broken.reason
    assert (result.recommended.values, result.recommended.verdict) == (START, "no evidence")
    assert (result.evidence, result.lacking[0]) == (False, "8 held out prompts (20 are the least)")
    assert "one trial, and none beside it" in result.lacking
    assert "No evidence: 8 held out" in (made.folder / "recipe.yaml").read_text(encoding="utf-8")
    made = job(place, tmp_path / "no", trials=1, settings={**SETTINGS, "learning_rate": 1e30})
    with pytest.raises(TrainingError, match="no trial came to its end"):
        run_tune(made, say=unheard)
