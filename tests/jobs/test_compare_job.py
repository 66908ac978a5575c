"""The folder, the tasks and the processes of a comparison."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orpo import ORPOConfig
from orpo.errors import ConfigError, TrainingError
from orpo.experiments.compare import plan_arms
from orpo.jobs import TrainJob
from orpo.jobs.compare.folder import claim_comparison, drawn_rows, prepare_data
from orpo.jobs.compare.processes import Found, Pool
from orpo.jobs.compare.spec import HeldOut, TaskSpec, finished, write_finished
from orpo.jobs.compare.tasks import CENTRE, CompareJob, Tasks, train_command
from orpo.jobs.compare.worker import load_checker
from tests.train.small import byte_tokenizer, text_rows, tiny_llama


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in text_rows(40)), encoding="utf-8")
    return str(path)


def job(folder: Path, pairs: str, **changes: Any) -> CompareJob:
    made = CompareJob(
        train=TrainJob(model="m", dataset=[pairs], held_out=0.4),
        settings={"learning_rate": 1e-3, "max_steps": 40, "per_device_train_batch_size": 2},
        folder=folder / "out",
        methods=("orpo", "sft", "sft+dpo"),
        budgets=("steps", "flops"),
    )
    return replace(made, **changes)


def prepared(made: CompareJob) -> Tasks:
    made.folder.mkdir(parents=True, exist_ok=True)
    return Tasks(made, prepare_data(made.folder, made.train, made.config("orpo")))


def prompts(path: str | Path) -> list[str]:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def test_no_prompt_is_on_two_sides_and_no_row_is_lost(tmp_path: Path, pairs: str) -> None:
    data = prepared(job(tmp_path, pairs)).data
    sides = [set(prompts(path)) for path in (data.train, data.test, data.choosing)]
    assert all(sides)
    assert sum(map(len, sides)) == len(set().union(*sides))
    assert data.rows + data.test_rows + data.choosing_rows == 40


def test_a_small_share_that_is_held_out_has_two_sides_too(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in text_rows(400)), encoding="utf-8")
    train = TrainJob(model="m", dataset=[str(path)], held_out=0.1)
    data = prepared(job(tmp_path, str(path), train=train)).data
    assert 0.15 < data.choosing_rows / (data.choosing_rows + data.test_rows) < 0.35


def test_sides_stay_whatever_the_seeds_are(tmp_path: Path, pairs: str) -> None:
    first = prepared(job(tmp_path, pairs)).data
    settings = {**job(tmp_path, pairs).settings, "seed": 7}
    other = prepared(job(tmp_path / "other", pairs, settings=settings)).data
    assert prompts(first.test) == prompts(other.test)


def test_dpo_is_given_the_rows_it_trains_on_and_no_others(tmp_path: Path, pairs: str) -> None:
    (tmp_path / "data").mkdir()
    path = drawn_rows(tmp_path, pairs, 12, 3, 40)
    assert len(prompts(path)) == 12
    assert set(prompts(path)) <= set(prompts(pairs))
    assert drawn_rows(tmp_path, pairs, 12, 3, 40) == path
    assert drawn_rows(tmp_path, pairs, 40, 3, 40) == pairs


def test_every_method_starts_from_the_same_model_with_its_own_settings(
    tmp_path: Path, pairs: str
) -> None:
    tasks = prepared(job(tmp_path, pairs, learning_rates={"dpo": 5e-5}))
    arms = plan_arms(("orpo", "sft", "sft+dpo"), "steps", tasks.seeds[:1], 40, {})
    specs = [spec for arm in arms for spec in tasks.arm(arm)]
    assert [spec.settings["objective"] for spec in specs] == ["orpo", "sft", "sft", "dpo"]
    assert [spec.job["model"] for spec in specs[:3]] == ["m"] * 3
    assert specs[3].job["model"] == specs[2].folder
    assert [spec.settings["learning_rate"] for spec in specs] == [1e-3, 1e-3, 1e-3, 5e-5]
    assert [spec.settings["max_steps"] for spec in specs] == [40, 40, 20, 20]
    assert len({spec.settings["seed"] for spec in specs}) == 1
    assert [spec.held_out is None for spec in specs] == [False, False, True, False]
    for spec in specs:  # what is written down can be read back, and trained with
        assert TrainJob(**spec.job).eval_dataset == tasks.data.choosing
        assert ORPOConfig(**spec.settings).objective == spec.settings["objective"]
    assert "--objective dpo" in train_command(specs[3])
    assert f"--output_dir {specs[3].folder}" in train_command(specs[3])


def test_the_grid_holds_the_settings_of_the_comparison_in_its_middle(
    tmp_path: Path, pairs: str
) -> None:
    tasks = prepared(job(tmp_path, pairs))
    cells = {cell.name: cell for spec in tasks.grid(["orpo", "sft", "dpo"]) for cell in spec.cells}
    assert len(cells) == 9 + 3 + 3
    assert {cells[name].settings["learning_rate"] for name in ("orpo-lr1-lambda0", "sft-lr1")} == {
        1e-3
    }
    assert cells[CENTRE["orpo"]].settings["orpo_alpha"] == 0.1
    assert cells["dpo-lr2"].start == CENTRE["sft"]
    few = prepared(job(tmp_path / "few", pairs, sensitivity=False)).grid(["orpo", "sft", "dpo"])
    assert [cell.name for spec in few for cell in spec.cells] == [*CENTRE.values()]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": 0}, "--seeds"),
        ({"at_once": 0}, "--at_once"),
        ({"learning_rates": {"dpo": 0.0}}, "--dpo_learning_rate"),
        ({"train": TrainJob(model="m", dataset=["a", "b"], held_out=0.1)}, "one data set"),
        ({"train": TrainJob(model="m", dataset=["a"])}, "held-out pairs are needed"),
        ({"train": TrainJob(model="m", dataset=["a"], held_out=0.1, resume="auto")}, "--resume"),
        ({"settings": {"orpo_alpha": -1.0}}, "orpo_alpha"),
    ],
)
def test_values_that_cannot_be_meant(
    tmp_path: Path, pairs: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        job(tmp_path, pairs, **changes)


def test_another_comparison_is_not_written_over(tmp_path: Path) -> None:
    claim_comparison(tmp_path, {"training": {"learning_rate": 1e-3}}, overwrite=False)
    (tmp_path / "orpo-steps-seed1").mkdir()
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    claim_comparison(tmp_path, {"training": {"learning_rate": 1e-3}}, overwrite=False)
    with pytest.raises(ConfigError, match=r"learning_rate: 0\.001 there, 0\.01 now.*--overwrite"):
        claim_comparison(tmp_path, {"training": {"learning_rate": 1e-2}}, overwrite=False)
    assert (tmp_path / "orpo-steps-seed1").is_dir()
    claim_comparison(tmp_path, {"training": {"learning_rate": 1e-2}}, overwrite=True)
    assert not (tmp_path / "orpo-steps-seed1").exists()
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: m", encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="no comparison"):
            claim_comparison(tmp_path, {}, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_task_is_finished_only_as_it_was_told(tmp_path: Path) -> None:
    spec = TaskSpec("base", str(tmp_path), {"model": "m"}, {"seed": 1}, HeldOut("d", 1, 2))
    assert finished(spec) is None
    write_finished(spec, {"a": 1}, [{"answer": "one\u2028two"}])
    assert finished(spec) == ({"a": 1}, [{"answer": "one\u2028two"}])
    assert finished(replace(spec, settings={"seed": 2})) is None
    (tmp_path / "cost.json").write_text('{"spec": ', encoding="utf-8")
    assert finished(spec) is None


def test_specs_are_read_as_they_were_written(tmp_path: Path, pairs: str) -> None:
    (spec, _) = prepared(job(tmp_path, pairs)).grid(["orpo", "sft"])
    path = tmp_path / "task.json"
    path.write_text(json.dumps(spec.as_dict()), encoding="utf-8")
    assert TaskSpec.read(path).as_dict() == spec.as_dict()


@pytest.mark.parametrize("name", ["nowhere:f", "orpo.demo.story", "orpo.demo.story:ASSETS", ":"])
def test_a_checker_that_cannot_be_loaded(name: str) -> None:
    with pytest.raises(ConfigError, match="--checker"):
        load_checker(name)


@pytest.mark.usefixtures("forked_python")
def test_a_task_that_refuses_its_input_is_one_line_and_stops_the_others(
    tmp_path: Path, pairs: str
) -> None:
    tiny_llama().save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    settings = {"use_cpu": True, "max_length": 64, "report_to": "none"}
    good = TaskSpec(
        "base", str(tmp_path / "a"), {"model": str(tmp_path / "model")}, settings,
        HeldOut(pairs, 2, 4),
    )  # fmt: skip
    bad = replace(good, folder=str(tmp_path / "b"), job={"model": str(tmp_path / "none")})
    done: dict[int, list[Found]] = {}
    with pytest.raises(ConfigError, match=r"^b: .*none"):
        Pool(1).run([[good], [bad], [good]], done.__setitem__)
    ((about, outcomes),) = done[0]
    assert about["held_out"]["kept"] == 40
    assert len(outcomes) == 40
    assert [one["answer"] is None for one in outcomes] == [False] * 2 + [True] * 38

    lost = replace(good, kind="no such kind")
    with pytest.raises(TrainingError, match=r"exit code 1.*KeyError"):
        Pool(1).run([[lost]], done.__setitem__)


@pytest.mark.parametrize(
    "given", [{"hub_token": "hf_abc"}, {"model_init_kwargs": '{"token": "hf_abc"}'}]
)
def test_a_token_is_refused_and_not_repeated(
    tmp_path: Path, pairs: str, given: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="HF_TOKEN") as refused:
        job(tmp_path, pairs, settings=given)
    assert "hf_abc" not in str(refused.value)
