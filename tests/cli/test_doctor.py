"""`orpo doctor RUN`: what it prints, its exit codes, and that its advice works."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from orpo.commands.main import main
from orpo.runs.manifest import read_manifest, verify
from tests.cli.conftest import Orpo
from tests.jobs.small_run import flip


@pytest.fixture
def run(finished_run: Path) -> Path:
    return finished_run


@pytest.fixture
def stopped(run: Path, tmp_path: Path) -> Path:
    """The same as a kill after its second step leaves it."""
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    for name in [*read_manifest(folder).files, "manifest.json", "trainer_state.json"]:
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoint-4")
    return folder


def test_a_sound_run_gives_a_table_a_verdict_and_0(orpo: Orpo, run: Path) -> None:
    assert orpo("doctor", run) == 0
    assert orpo.out == ""
    for said in ("recipe.yaml", "checkpoint-4", "--resume takes it", "by nobody", "all weights"):
        assert said in orpo.err
    assert orpo.err.strip().splitlines()[-2:] == [
        "finished at step 4: the model is sound",
        f"next: orpo chat {run}",
    ]
    assert orpo("doctor", run, "--json") == 0
    found = json.loads(orpo.out)
    assert found["sound"] is True
    assert found["kind"] == "run"
    assert found["resume"] == "checkpoint-4"
    assert found["model"]["step"] == 4
    assert found["next"] == [f"orpo chat {run}"]


def test_damage_gives_1_and_one_object_all_the_same(orpo: Orpo, run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    flip(folder / "checkpoint-4" / "optimizer.pt")
    said = "checkpoint-4: optimizer.pt is not what was committed"
    assert orpo("doctor", folder, "--json") == 1
    assert json.loads(orpo.out)["problems"] == [said]
    assert orpo("doctor", folder) == 1
    assert orpo.out == ""
    assert f"damaged: {said}" in orpo.err
    assert orpo.err.strip().splitlines()[-1] == f"error: {folder}: {said}"


def test_the_advice_for_a_stopped_run_finishes_it(orpo: Orpo, stopped: Path, run: Path) -> None:
    assert orpo("doctor", stopped, "--json") == 0, orpo.err
    first, chat = json.loads(orpo.out)["next"]
    assert chat == f"orpo chat {stopped / 'checkpoint-2'}"
    name, *words = shlex.split(first)
    assert name == "orpo"
    assert orpo(*words) == 0, orpo.err
    assert (
        verify(stopped).files["model.safetensors"]
        == (read_manifest(run).files["model.safetensors"])
    )
    assert orpo("doctor", stopped) == 0
    assert "finished at step 4: the model is sound" in orpo.err


@pytest.mark.parametrize("arguments", [["./none"], ["."], [".", "--model", "m"]])
def test_a_wrong_folder_gives_2_and_one_line(
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("error: ")


@pytest.mark.parametrize(
    "command", [["generate", "RUN", "hello"], ["chat", "RUN"], ["train", "--model", "RUN"]]
)
def test_a_flipped_bit_is_never_loaded(
    command: list[str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    flip(folder / "model.safetensors")
    words = [str(folder) if word == "RUN" else word for word in command]
    if command[0] == "train":
        words += ["--dataset", str(run.parent / "pairs.jsonl")]
        words += ["--output_dir", str(tmp_path / "out")]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert "model.safetensors is not what was committed" in err
    assert not (tmp_path / "out" / "recipe.yaml").exists()


def test_doctor_says_what_is_there_and_what_would_be_chosen(orpo: Orpo, tiny: Path) -> None:
    assert orpo("doctor", "--model", tiny, "--json") == 0, orpo.err
    found = json.loads(orpo.out)
    assert found["versions"]["torch"]
    assert found["device"]["kind"] in {"cpu", "cuda", "mps"}
    assert "shared" in found["would_choose"]["engine"]
    assert found["model"]["trainable"] == "yes"
    assert found["model"]["engine"].startswith("shared engine")
    assert "shared" in orpo.err
