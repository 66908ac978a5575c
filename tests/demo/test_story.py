"""`orpo demo` goes on where it was stopped, and replaces nothing but an earlier demo."""

import gzip
import itertools
import os
import signal
from pathlib import Path

import pytest
from tests.cli.conftest import Orpo, orpo
from tests.train.small import byte_tokenizer

from orpo.demo import story

__all__ = ["orpo"]


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo on eight of its pairs, in a folder of its own."""
    for name in ("dataset", "eval_dataset"):
        (given,) = [story.JOB[name]] if isinstance(story.JOB[name], str) else story.JOB[name]
        with gzip.open(given, "rt", encoding="utf-8") as file:
            (tmp_path / f"{name}.jsonl").write_text("".join(itertools.islice(file, 8)))
        few = str(tmp_path / f"{name}.jsonl")
        monkeypatch.setitem(story.JOB, name, few if name == "eval_dataset" else [few])
    monkeypatch.setitem(story.TEST, "sample_tokens", 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_demo_that_was_stopped_goes_on(
    short: Path, orpo: Orpo, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, grade = itertools.count(1), story.grade

    def stopped(*asked: object) -> object:
        if next(count) == 12:  # of sixteen answers: half of those after training
            os.kill(os.getpid(), signal.SIGTERM)
        return grade(*asked)  # type: ignore[arg-type]

    monkeypatch.setattr(story, "grade", stopped)
    demo = ("demo", "--max_steps", 2)
    assert orpo(*demo) == 143
    assert "orpo-demo/checkpoint-2. Go on with the same command." in " ".join(orpo.err.split())
    assert orpo.does(*demo, "--json")["steps"] == 2
    assert "going on from checkpoint-2" in orpo.err
    assert "before training" not in orpo.err
    again = orpo.does(*demo, "--json")
    assert again["was_finished"] is True
    assert set(again["evaluation"]) == {"before", "after"}
    assert "was finished before: add --overwrite" in orpo.err
    for more in (("--overwrite",), ("--seed", 1)):
        orpo.does(*demo, *more)
        assert "is replaced" in orpo.err
        assert "before training" in orpo.err


def test_what_is_no_demo_is_not_replaced(short: Path, orpo: Orpo) -> None:
    byte_tokenizer().save_pretrained(short / "own")
    (short / "own" / "recipe.yaml").write_text("model: mine\n")
    said = orpo.refuses_at_once("demo", "--output_dir", "own", "--overwrite")
    assert said.endswith("own: holds a run that is no demo. Give another --output_dir.")
