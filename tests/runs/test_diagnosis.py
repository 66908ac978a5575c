"""What `orpo doctor RUN` finds in a real run, whole and damaged in every way."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from orpo.commands.doctor import look_into, next_commands, verdict
from orpo.errors import ConfigError
from orpo.runs.checkpoints import newest_checkpoint
from orpo.runs.commit import commit
from orpo.runs.diagnosis import Diagnosis, examine_folder
from orpo.runs.manifest import read_manifest
from tests.jobs.small_run import flip
from tests.train.small import byte_tokenizer, tiny_llama

MODEL = "model.safetensors"


def look(folder: Path) -> Diagnosis:
    """Examine, and make sure that nothing was changed."""
    before = content(folder)
    found = examine_folder(str(folder), look_into)
    assert content(folder) == before
    json.dumps(found.as_dict(), allow_nan=False)
    return found


def content(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def run(finished_run: Path, copied: Callable[[Path], Path]) -> Path:
    """This test's own copy of a finished run."""
    return copied(finished_run)


def cut(path: Path, *, by: int = 10) -> None:
    path.write_bytes(path.read_bytes()[:-by])


def edit(run: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Lines of the metrics."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(change(lines)), encoding="utf-8")


def plant_nan(folder: Path) -> None:
    """Into a committed folder, which is committed again."""
    weights = load_file(folder / MODEL)
    weights["model.norm.weight"][3] = float("nan")
    weights["model.norm.weight"][5] = float("inf")
    told = read_manifest(folder)
    staged = folder.with_name("again")
    shutil.copytree(folder, staged)
    (staged / "manifest.json").unlink()
    save_file(weights, staged / MODEL, metadata={"format": "pt"})
    commit(staged, folder, run=told.run, step=told.step, resumable=told.resumable)


def interrupt(run: Path) -> None:
    """As a kill after step 3 leaves a run."""
    for name in [*read_manifest(run).files, "manifest.json", "trainer_state.json"]:
        (run / name).unlink()
    shutil.rmtree(run / "checkpoint-4")
    edit(run, lambda lines: lines[:4])


def test_a_finished_run_is_sound(finished_run: Path) -> None:
    found = look(finished_run)
    assert (found.kind, found.problems, found.notes) == ("run", [], [])
    assert found.ended
    assert found.max_steps == found.metrics.last_step == found.metrics.steps == 4
    assert [(saved.step, saved.usable) for saved in found.checkpoints] == [(2, True), (4, True)]
    assert found.resume is found.healthy is found.checkpoints[1]
    assert found.model is not None
    assert found.model.tensors == len(load_file(finished_run / MODEL))
    assert (found.model.run, found.model.step) == (found.run, 4)
    assert set(found.pages) == {"evaluation.json", "samples.jsonl", "report.html"}
    assert verdict(found) == "finished at step 4: the model is sound"
    assert next_commands(found) == [f"orpo chat {finished_run}"]
    assert found.as_dict()["sound"] is True


def test_a_run_of_an_adapter_is_sound(adapter_run: Path) -> None:
    found = look(adapter_run)
    assert (found.problems, found.notes) == ([], [])
    assert found.model is not None
    assert (found.model.holds, found.model.base) == ("adapter", str(adapter_run.parent / "base"))
    assert found.model.tensors


def test_an_adapter_without_its_base_model_does_not_load(adapter_run: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter_run, tmp_path / "run", ignore=shutil.ignore_patterns("manifest.json"))
    path = tmp_path / "run" / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = str(tmp_path / "gone")
    path.write_text(json.dumps(settings), encoding="utf-8")
    found = look(tmp_path / "run")
    assert any("base model" in line and "is not there" in line for line in found.problems)


@pytest.mark.parametrize(
    ("damage", "said", "resume"),
    [
        (lambda run: flip(run / MODEL), f"the model: {MODEL} is not", 4),
        (lambda run: cut(run / MODEL), f"the model: {MODEL} has", 4),
        (lambda run: (run / "tokenizer.json").unlink(), "the model: tokenizer.json is missing", 4),
        (lambda run: flip(run / "manifest.json"), "the model: manifest.json was changed", 4),
        (lambda run: flip(run / "checkpoint-4/optimizer.pt"), "checkpoint-4: optimizer.pt", 2),
        (lambda run: cut(run / "checkpoint-4/rng_state.pth"), "checkpoint-4: rng_state.", 2),
        (lambda run: (run / "checkpoint-4" / MODEL).unlink(), f"checkpoint-4: {MODEL}", 2),
        (lambda run: cut(run / "checkpoint-4/manifest.json"), "checkpoint-4: manifest", 2),
        (lambda run: (run / "checkpoint-4/manifest.json").unlink(), "never committed", 2),
        (lambda run: flip(run / "checkpoint-2" / MODEL), f"checkpoint-2: {MODEL} is not", 4),
        (lambda run: (run / "recipe.yaml").unlink(), "recipe.yaml is missing", 4),
        (lambda run: (run / "recipe.yaml").write_text("a: [1"), "recipe.yaml: broken YAML", 4),
        (lambda run: edit(run, lambda n: [*n[:1], "{oh\n", *n[2:]]), "metrics.jsonl:2 cannot", 4),
        (
            lambda run: edit(run, lambda n: n[:3]),
            "metrics.jsonl has 3 lines where checkpoint-4 knows of 5",
            4,
        ),
        (lambda run: cut(run / "evaluation.json"), "evaluation.json cannot be read", 4),
        (lambda run: (run / "samples.jsonl").write_text("{\n{}\n"), "samples.jsonl: line 1", 4),
        (lambda run: cut(run / "report.html"), "report.html was cut off", 4),
    ],
)
def test_damage_is_named_and_what_is_left_is_known(
    run: Path, damage: Callable[[Path], None], said: str, resume: int
) -> None:
    damage(run)
    found = look(run)
    assert len(found.problems) == 1
    assert said in found.problems[0]
    assert found.as_dict()["sound"] is False
    assert found.resume is not None
    assert found.resume.step == resume
    assert newest_checkpoint(run, found.run).path == Path(found.resume.path)  # as --resume has it
    assert "is sound" in verdict(found)


def test_what_a_kill_leaves_is_no_damage(run: Path) -> None:
    interrupt(run)
    shutil.copytree(run / "checkpoint-2", run / ".staging-checkpoint-4" / "checkpoint-4")
    (run / ".lock").write_text('{"pid": 1, "host": "h"}', encoding="utf-8")
    for name in ("metrics.jsonl", "events.jsonl"):
        with (run / name).open("a", encoding="utf-8") as file:
            file.write('{"step": 4, "lo')
    found = look(run)
    assert found.problems == []
    assert (found.writer, found.unfinished) == (None, ["checkpoint-4"])
    assert found.metrics.torn
    assert found.events.broken == 1
    assert len(found.notes) == 2
    assert (
        verdict(found)
        == "stopped: step 2 of 4 is sound and can be gone on from; the steps up to 3 that were "
        "logged are done again"
    )


def test_the_way_on_leads_to_the_folder_as_it_lies_now(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(run)
    recipe = run / "recipe.yaml"
    first, *_ = next_commands(look(run))
    assert first == f"orpo train {recipe} --resume --output_dir {run}"
    settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    settings["_run"]["world_size"] = 4
    recipe.write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert next_commands(look(run))[0].endswith(" --nproc 4")
    (run / "checkpoint-2").rename(run / "aside")
    (again,) = next_commands(look(run))
    assert again.endswith(" --nproc 4")
    assert "--overwrite" in again
    (run / "aside").rename(run / "checkpoint-2")
    settings = {**settings, "output_dir": "run"}
    del settings["_run"]["world_size"]
    recipe.write_text(yaml.safe_dump(settings), encoding="utf-8")
    monkeypatch.chdir(run.parent)
    assert next_commands(look(Path("run")))[0] == "orpo train run/recipe.yaml --resume"
    del settings["dataset"]  # as of a trainer in Python
    recipe.write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert next_commands(look(run))[0].startswith("trainer.train(resume_from_checkpoint=True)")
    shutil.rmtree(run / "checkpoint-2")
    assert verdict(look(run)).startswith("there is no checkpoint to go on from")


def test_a_model_whose_save_was_cut_off_is_not_called_sound(run: Path) -> None:
    (run / ".staging-model").mkdir()
    (run / "manifest.json").rename(run / ".staging-model" / "manifest.json")
    found = look(run)
    assert found.problems == ["the model: its save was cut off"]
    assert (
        verdict(found) == "finished at step 4: the model is damaged; its last checkpoint is sound"
    )


def test_weights_that_are_no_numbers_are_named_and_not_gone_on_from(
    finished_run: Path, run: Path
) -> None:
    interrupt(run)
    shutil.copytree(finished_run / "checkpoint-4", run / "checkpoint-4")
    shutil.copy(finished_run / "metrics.jsonl", run)
    plant_nan(run / "checkpoint-4")
    found = look(run)
    assert found.problems == [
        "checkpoint-4: model.norm.weight has 1 NaN and 1 infinite values of 32"
    ]
    assert found.resume is found.checkpoints[1]
    assert found.healthy is found.checkpoints[0]
    assert f"--resume {run / 'checkpoint-2'}" in next_commands(found)[0]


def test_a_checkpoint_without_optimizer_or_of_another_run_is_passed_over(run: Path) -> None:
    for step, (name, resumable) in {6: ("other", True), 8: (look(run).run, False)}.items():
        shutil.copytree(run / "checkpoint-4", run / ".staging-c")
        (run / ".staging-c" / "manifest.json").unlink()
        final = run / f"checkpoint-{step}"
        commit(run / ".staging-c", final, run=str(name), step=step, resumable=resumable)
    found = look(run)
    assert found.problems == []
    assert found.resume is not None
    assert found.resume.step == 4
    assert newest_checkpoint(run, found.run).path == Path(found.resume.path)
    assert any("another run" in line for line in found.notes)


def test_a_run_that_is_being_written_is_left_alone(run: Path) -> None:
    code = (
        "import pathlib, sys; from orpo.runs.lock import run_lock\n"
        "with run_lock(pathlib.Path(sys.argv[1])):\n    print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        found = look(run)
        assert f"process {other.pid} " in str(found.writer)
        assert verdict(found).startswith("running at step 4 of 4: process")
        assert next_commands(found) == []
        other.communicate("\n")
    assert look(run).writer is None


@pytest.mark.parametrize(
    ("number", "line", "said"),
    [
        (2, "", "no line between steps 1 and 3"),
        (3, '{"step": 1, "loss": 1.0}\n', "goes back at step 1"),
        (3, '{"step": 3, "loss": NaN}\n', "the loss at step 3 is not a number"),
    ],
)
def test_oddities_of_the_metrics_are_noted(run: Path, number: int, line: str, said: str) -> None:
    edit(run, lambda lines: [*lines[:number], line, *lines[number + 1 :]])
    found = look(run)
    assert found.problems == []
    assert any(said in note for note in found.notes)


def test_a_checkpoint_is_understood_by_itself(run: Path) -> None:
    found = look(run / "checkpoint-2")
    assert (found.kind, found.problems) == ("checkpoint", [])
    assert verdict(found).startswith("the checkpoint of step 2 is sound")
    first, second = next_commands(found)
    assert first.startswith(f"orpo train {run}/recipe.yaml --resume {run}/checkpoint-2")
    assert second == f"orpo chat {run}/checkpoint-2"
    flip(run / "checkpoint-2" / "scheduler.pt")
    found = look(run / "checkpoint-2")
    assert found.problems == ["checkpoint-2: scheduler.pt is not what was committed"]
    assert next_commands(found) == [f"orpo doctor {run}"]


def test_a_model_without_manifest_is_judged_by_what_can_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_llama().save_pretrained(folder, max_shard_size="50KB")
    byte_tokenizer().save_pretrained(folder)
    found = look(folder)
    assert (found.kind, found.problems) == ("model", [])
    assert "without a manifest" in verdict(found)
    assert next_commands(found) == [f"orpo chat {folder}"]
    first, *_ = sorted(folder.glob("model-*.safetensors"))
    shard = first.read_bytes()
    for damage, said in ((shard[:100], "cannot be read"), (None, f"{first.name} is missing")):
        first.unlink()
        if damage is not None:
            first.write_bytes(damage)
        found = look(folder)
        assert said in found.problems[0]
        assert verdict(found) == "the model is damaged: do not use it"
    first.write_bytes(shard)
    (folder / "tokenizer.json").unlink()
    assert "does not load" in look(folder).problems[0]
    for path in folder.glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    assert look(folder).problems == ["the model: holds no *.safetensors"]


def test_a_checkpoint_without_optimizer_can_be_loaded(run: Path) -> None:
    (run / "checkpoint-4" / "manifest.json").unlink()
    (run / "checkpoint-4").rename(run / ".staging-c")
    commit(run / ".staging-c", run / "checkpoint-4", run="r", step=4, resumable=False)
    found = look(run / "checkpoint-4")
    assert verdict(found).endswith("it can be loaded, not gone on from")
    assert next_commands(found) == [f"orpo chat {run / 'checkpoint-4'}"]
    plant_nan(run / "checkpoint-4")
    found = look(run / "checkpoint-4")
    assert "1 NaN" in found.problems[0]
    assert verdict(found) == "the checkpoint is damaged: do not use it"


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a run nor"):
        examine_folder(str(tmp_path), look_into)
    with pytest.raises(ConfigError, match="no such folder"):
        examine_folder(str(tmp_path / "none"), look_into)
