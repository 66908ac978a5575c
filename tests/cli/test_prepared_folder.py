"""A run that goes on in a folder full of links: it ends well, and nothing beside it has changed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from orpo.commands.main import main
from tests.cli.conftest import Orpo

SETTINGS = (
    *("--max_steps", 4, "--save_steps", 2, "--logging_steps", 1, "--held_out", 0.2),
    *("--per_device_train_batch_size", 4, "--max_length", 64, "--samples", 1),
    *("--sample_tokens", 4, "--use_cpu", "true", "--report_to", "none"),
)
WRITTEN = (
    *("report.html", "README.md", "metrics.jsonl", "events.jsonl", "trainer_state.json"),
    *("recipe.yaml", "evaluation.json", "samples.jsonl", "scores.jsonl", "audit.json", "work.json"),
    *("config.json", "model.safetensors", "tokenizer.json", ".lock"),
    *(".report.html.new", ".recipe.yaml.new", ".metrics.jsonl.new"),
)


@pytest.fixture(scope="module")
def pairs_of_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    yes, no = ([{"role": "assistant", "content": text}] for text in ("Yes.", "No, no."))
    asked = [[{"role": "user", "content": f"Say {n}"}] for n in range(24)]
    rows = [{"prompt": prompt, "chosen": yes, "rejected": no} for prompt in asked]
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tiny: Path, pairs_of_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    told = ("train", "--model", tiny, "--dataset", pairs_of_run, "--output_dir", run, *SETTINGS)
    assert main([str(one) for one in told]) == 0
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run of four steps."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_goes_on_among_links(
    orpo: Orpo, run: Path, tiny: Path, pairs_of_run: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (run / "manifest.json").unlink()  # its model is to be saved again
    shutil.rmtree(run / "checkpoint-4")
    for name in WRITTEN:
        (outside / name).write_bytes((run / name).read_bytes() if (run / name).exists() else b"x")
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(outside / name)
    (run / "checkpoint-2").rename(outside / "checkpoint-2")
    (run / "checkpoint-2").symlink_to(outside / "checkpoint-2")
    (run / "checkpoint-4").symlink_to(outside / "nowhere")
    (run / "checkpoint-3").write_text("a file")
    before = contents(outside)
    told = ("--model", tiny, "--dataset", pairs_of_run, "--output_dir", run)
    told += ("--save_total_limit", 1)
    assert orpo("train", *told, *SETTINGS, "--resume") == 0, orpo.err
    assert contents(outside) == before
    assert not any(path.is_symlink() for path in run.iterdir())
    assert not (run / "checkpoint-2").exists()  # one may stay, and the link was the older one
    assert orpo("doctor", run, "--json") == 0, orpo.out


@pytest.mark.parametrize("stood", ["link", "pipe", "broken link"])
def test_a_report_is_drawn_over_what_is_no_file(
    orpo: Orpo, run: Path, tmp_path: Path, stood: str
) -> None:
    page = run / "report.html"
    page.unlink()
    (tmp_path / "victim").write_text("precious")
    if stood == "pipe":
        os.mkfifo(page)
    else:
        page.symlink_to(tmp_path / ("victim" if stood == "link" else "nowhere"))
    assert orpo("report", run) == 0, orpo.err
    assert page.read_text().rstrip().endswith("</html>")
    assert not page.is_symlink()
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
    # Where the user names the file, what a link points to is what was meant.
    (tmp_path / "named.html").symlink_to(tmp_path / "victim")
    assert orpo("report", run, "--output", tmp_path / "named.html") == 0
    assert (tmp_path / "victim").read_text().rstrip().endswith("</html>")
    assert orpo("report", run, "--output", "/dev/null") == 0
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("place", ["report.html", "recipe.yaml", "evaluation.json", ".lock"])
def test_a_folder_in_the_place_of_a_file_is_said_before_training(
    orpo: Orpo, tiny: Path, pairs: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "run" / place).mkdir(parents=True)
    told = ("--model", tiny, "--dataset", pairs, "--output_dir", tmp_path / "run")
    assert orpo("train", *told, *SETTINGS, "--overwrite") == 2
    assert orpo.err.count("\n") == 1
    assert place in orpo.err or "run: " in orpo.err
    assert [path.name for path in (tmp_path / "run").iterdir()] == [place]


def test_an_evaluation_follows_no_link(orpo: Orpo, run: Path, pairs: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "loss.svg").write_text("precious")
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "figures").symlink_to(outside)
    told = ("--dataset", pairs, "--output_dir", tmp_path / "evaluation")
    assert orpo("evaluate", "preference", run, *told) == 2
    assert "figures" in orpo.err
    assert contents(outside) == {str(outside / "loss.svg"): b"precious"}


def test_answers_are_not_added_to_a_text_of_someone_else(
    orpo: Orpo, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("hello\n")
    precious = tmp_path / "precious.txt"
    precious.write_text("a line without an end")
    told = ("--output", precious, "--max_new_tokens", 2)
    assert orpo("generate", run, tmp_path / "prompts.txt", *told) == 2
    assert precious.read_text() == "a line without an end"
