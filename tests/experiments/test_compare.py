"""A comparison: the plan, the folder and its rows, the tasks, their processes, and the judge."""

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orpo import ORPOConfig
from orpo.errors import ConfigError, RunStopped, TrainingError
from orpo.evaluate.settings import JudgeSettings
from orpo.experiments.claims import ArmResult, Group
from orpo.experiments.compare import JUDGMENTS, claim_comparison, judge_arms
from orpo.experiments.plans import CompareJob, ComparePlan, load_checker
from orpo.experiments.results import METHODS, Arm, Outcome
from orpo.experiments.tasks import (
    CENTRE,
    HeldOut,
    Rows,
    Tasks,
    TaskSpec,
    plan_arms,
    prepare_rows,
    run_chains,
    train_command,
)
from orpo.jobs import TrainJob
from orpo.runs.files import read_jsonl
from orpo.runs.reading import read_object
from orpo.runs.typed import typed
from tests.evaluate.judge.server import ScriptedServer, fair
from tests.train.small import byte_tokenizer, text_rows, tiny_llama

COSTS = {"orpo": 10.0, "sft": 6.0, "dpo": 13.0}


# The plan


def test_equal_steps_divide_them_between_the_stages() -> None:
    arms = plan_arms(METHODS, "steps", [7, 8], 100, {})
    names = [f"{m}-steps-seed{seed}" for seed in (7, 8) for m in ("orpo", "sft", "sft+dpo")]
    assert [arm.name for arm in arms] == names
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


# The folder and its rows


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in text_rows(40)), encoding="utf-8")
    return str(path)


def job(folder: Path, pairs: str, plan: ComparePlan | None = None, **changes: Any) -> CompareJob:
    made = CompareJob(
        train=TrainJob(model="m", dataset=[pairs], held_out=0.4),
        settings={"learning_rate": 1e-3, "max_steps": 40, "per_device_train_batch_size": 2},
        folder=folder / "out",
        plan=plan or ComparePlan(),
    )
    return replace(made, **changes)


def prepared(made: CompareJob) -> Tasks:
    return Tasks(made, prepare_rows(made))


def prompts(path: str | Path) -> list[str]:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def test_no_prompt_is_on_two_sides_and_no_row_is_lost(tmp_path: Path, pairs: str) -> None:
    rows = prepared(job(tmp_path, pairs)).rows
    sides = [set(prompts(path)) for path in (rows.train, rows.test, rows.choosing)]
    assert all(sides)
    assert sum(map(len, sides)) == len(set().union(*sides))
    assert sum(rows.counts.values()) == 40
    settings = {**job(tmp_path, pairs).settings, "seed": 7}
    other = prepared(job(tmp_path / "other", pairs, settings=settings)).rows
    assert prompts(rows.test) == prompts(other.test), "sides stay whatever the seeds are"
    many = tmp_path / "many.jsonl"
    many.write_text("".join(json.dumps(row) + "\n" for row in text_rows(400)), encoding="utf-8")
    train = TrainJob(model="m", dataset=[str(many)], held_out=0.1)
    counts = prepared(job(tmp_path / "many", str(many), train=train)).rows.counts
    assert 0.15 < counts["choosing"] / (counts["choosing"] + counts["test"]) < 0.35


def test_dpo_is_given_the_rows_it_trains_on_and_no_others(tmp_path: Path, pairs: str) -> None:
    rows = Rows(tmp_path, pairs, {"train": 40})
    path = rows.drawn(12, 3)
    assert len(prompts(path)) == 12
    assert set(prompts(path)) <= set(prompts(pairs))
    assert rows.drawn(12, 3) == path
    assert rows.drawn(40, 3) == pairs


def test_another_comparison_is_not_written_over(tmp_path: Path) -> None:
    settings = {"training": {"learning_rate": 1e-3}}
    claim_comparison(tmp_path, settings, overwrite=False)
    (tmp_path / "orpo-steps-seed1").mkdir()
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    claim_comparison(tmp_path, settings, overwrite=False)
    settings = {"training": {"learning_rate": 1e-2}}
    with pytest.raises(ConfigError, match=r"learning_rate 0\.001, now it is 0\.01.*--overwrite"):
        claim_comparison(tmp_path, settings, overwrite=False)
    assert (tmp_path / "orpo-steps-seed1").is_dir()
    claim_comparison(tmp_path, settings, overwrite=True)
    assert not (tmp_path / "orpo-steps-seed1").exists()
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("model: m", encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="no comparison"):
            claim_comparison(run, {}, overwrite=overwrite)
    assert [path.name for path in run.iterdir()] == ["recipe.yaml"]


# The tasks


def test_every_method_starts_from_the_same_model_with_its_own_settings(
    tmp_path: Path, pairs: str
) -> None:
    tasks = prepared(job(tmp_path, pairs, ComparePlan(dpo_learning_rate=5e-5)))
    arms = plan_arms(METHODS, "steps", tasks.job.all_seeds[:1], 40, {})
    specs = [spec for arm in arms for spec in tasks.arm(arm)]
    assert [spec.settings["objective"] for spec in specs] == ["orpo", "sft", "sft", "dpo"]
    assert [spec.job["model"] for spec in specs[:3]] == ["m"] * 3
    assert specs[3].job["model"] == specs[2].folder
    assert [spec.settings["learning_rate"] for spec in specs] == [1e-3, 1e-3, 1e-3, 5e-5]
    assert [spec.settings["max_steps"] for spec in specs] == [40, 40, 20, 20]
    assert len({spec.settings["seed"] for spec in specs}) == 1
    assert [spec.held_out is None for spec in specs] == [False, False, True, False]
    for spec in specs:  # what is written down can be read back, and trained with
        assert TrainJob(**spec.job).eval_dataset == tasks.rows.choosing
        assert ORPOConfig(**spec.settings).objective == spec.settings["objective"]
    assert "--objective dpo" in train_command(specs[3])
    assert f"--output_dir {specs[3].folder}" in train_command(specs[3])


def test_the_grid_holds_the_settings_of_the_comparison_in_its_middle(
    tmp_path: Path, pairs: str
) -> None:
    tasks = prepared(job(tmp_path, pairs))
    grid = tasks.grid(["orpo", "sft", "dpo"])
    cells = {Path(cell.folder).name: cell for spec in grid for cell in spec.cells}
    assert len(cells) == 9 + 3 + 3
    rates = {cells[name].settings["learning_rate"] for name in ("orpo-lr1-lambda0", "sft-lr1")}
    assert rates == {1e-3}
    assert cells[CENTRE["orpo"]].settings["orpo_alpha"] == 0.1
    assert cells["dpo-lr2"].job["model"] == cells[CENTRE["sft"]].folder
    short = ComparePlan(no_sensitivity=True)
    few = prepared(job(tmp_path / "few", pairs, short)).grid(["orpo", "sft", "dpo"])
    assert [Path(cell.folder).name for spec in few for cell in spec.cells] == [*CENTRE.values()]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": TrainJob(model="m", dataset=["a", "b"], held_out=0.1)}, "one data set"),
        ({"train": TrainJob(model="m", dataset=["a"], held_out=0.1, resume="auto")}, "--resume"),
        ({"settings": {"orpo_alpha": -1.0}}, "orpo_alpha"),
        ({"settings": {"hub_token": "hf_abc"}}, "HF_TOKEN"),
        ({"settings": {"model_init_kwargs": '{"token": "hf_abc"}'}}, "HF_TOKEN"),
    ],
)
def test_values_that_cannot_be_meant(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        job(Path("none"), "none", **changes)
    assert "hf_abc" not in str(refused.value)


def test_a_task_is_finished_only_as_it_was_told(tmp_path: Path, pairs: str) -> None:
    spec = TaskSpec("base", str(tmp_path), {"model": "m"}, {"seed": 1}, HeldOut("d", 1, 2))
    assert spec.finished() is None
    outcome = Outcome(3, "p", -1.0, -2.0, "one\u2028two")
    spec.finish({"a": 1}, [outcome])
    assert spec.finished() == ({"a": 1}, [outcome])
    assert replace(spec, settings={"seed": 2}).finished() is None
    (tmp_path / "cost.json").write_text('{"spec": ', encoding="utf-8")
    assert spec.finished() is None


@pytest.mark.parametrize("name", ["nowhere:f", "orpo.demo.story", "orpo.demo.story:ASSETS", ":"])
def test_a_checker_that_cannot_be_loaded(name: str) -> None:
    with pytest.raises(ConfigError, match="--checker"):
        load_checker(name)


# The processes


@pytest.fixture
def base(tmp_path: Path, pairs: str) -> TaskSpec:
    """To measure a tiny model."""
    tiny_llama().save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    settings = {"use_cpu": True, "max_length": 64, "report_to": "none"}
    model, test = {"model": str(tmp_path / "model")}, HeldOut(pairs, 2, 4)
    return TaskSpec("base", str(tmp_path / "a"), model, settings, test)


@pytest.mark.usefixtures("forked_python")
def test_a_task_that_refuses_its_input_is_one_line_and_stops_the_others(
    base: TaskSpec, tmp_path: Path
) -> None:
    bad = replace(base, folder=str(tmp_path / "b"), job={"model": str(tmp_path / "none")})
    done: list[int] = []
    with pytest.raises(ConfigError, match=r"^b: .*none"):
        run_chains([[base], [bad], [base]], 1, done.append)
    assert done == [0]
    (((about, outcomes),),) = run_chains([[base]], 1, done.append)
    assert about["held_out"]["kept"] == 40
    assert [one.answer is None for one in outcomes] == [False] * 2 + [True] * 38
    told = read_object(tmp_path / "a" / "task.json")
    assert typed(TaskSpec, told, where="") == base

    lost = replace(base, kind="no such kind")
    with pytest.raises(TrainingError, match=r"exit code 1.*KeyError"):
        run_chains([[lost]], 1, done.append)


@pytest.mark.usefixtures("forked_python")
def test_a_signal_ends_the_tasks_and_is_passed_on(base: TaskSpec, tmp_path: Path) -> None:
    def send() -> None:
        while not (tmp_path / "a" / "log.txt").exists():
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)

    (thread := threading.Thread(target=send)).start()
    with pytest.raises(RunStopped, match="the same command goes on") as stopped:
        run_chains([[base, replace(base, folder=str(tmp_path / "b"))]], 1, lambda *_: None)
    thread.join()
    assert stopped.value.signal_number == signal.SIGTERM
    assert not (tmp_path / "b" / "cost.json").exists()


# The judge

WORDS = [f"word{n}" for n in range(12)]


def worth(request: str, answer: str) -> float:
    """9 for an answer that ends in the word that was asked for."""
    return 9.0 if answer.split()[-1:] == request.split()[-1:] else 2.0


def answered(right: int) -> tuple[Outcome, ...]:
    """Answers of which the first so many are right."""
    return tuple(
        Outcome(row, f"Please repeat the word {word}", -1.0, -2.0, f"I say {said}")
        for row, word in enumerate(WORDS)
        for said in [word if row < right else f"not {row}"]
    )


def test_preferences_are_for_the_method_and_land_on_its_rows(
    tmp_path: Path, pairs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    made = [Arm(f"{method}-steps-seed1", method, "steps", 1, []) for method in ("orpo", "sft")]
    arms = [ArmResult(arm, (), answered(right)) for arm, right in zip(made, (12, 3), strict=True)]
    with ScriptedServer(fair(worth)) as server:
        cache = tmp_path / "judge-cache.jsonl"
        settings = JudgeSettings(model="scripted", base_url=server.url, cache=cache)
        told = replace(job(tmp_path, pairs, judge=settings), folder=tmp_path)
        about, judged = judge_arms(told, answered(6), arms, lambda line: None)
        asked = len(server.asked)
        _, again = judge_arms(told, answered(6), arms, lambda line: None)
        assert len(server.asked) == asked  # every reply was kept
    orpo, sft = (result.judged for result in judged)
    assert orpo == {row: 0.5 if row < 6 else 1.0 for row in range(12)}
    assert sft == {row: 0.0 if 3 <= row < 6 else 0.5 for row in range(12)}
    assert [result.judged for result in again] == [orpo, sft]
    values = Group("orpo", "steps", [judged[0]]).values("judged")
    assert values[0] == [[0.5] * 6 + [1.0] * 6]
    ids = {line["id"] for line in read_jsonl(tmp_path / JUDGMENTS)}
    assert ids == {f"{arm.name}/{row}" for arm in made for row in range(12)}
    assert about["remarks"]
    silent = [replace(one, answer=None) for one in answered(1)]
    with pytest.raises(ConfigError, match="--samples"):
        judge_arms(told, silent, [ArmResult(arms[0].arm, (), silent)], lambda line: None)
