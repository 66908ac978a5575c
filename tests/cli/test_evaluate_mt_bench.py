"""`orpo evaluate mt-bench`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orpo.commands.main import main
from tests.cli.conftest import Orpo
from tests.evaluate.judge.server import ScriptedServer
from tests.evaluate.mt_bench.files import gullible, honest_answers, small_benchmark, write_lines

pytest.importorskip("openai")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of-a-test")


def test_published_judgments_need_no_judge(orpo: Orpo, shared_data: Path, tmp_path: Path) -> None:
    folder, out = shared_data / "mt_bench", tmp_path / "out"
    judgments = ("--judgments", folder / "judgments.jsonl", "--output-dir", out)
    assert orpo("evaluate", "mt-bench", "mistral-orpo-trl", *judgments, "--json") == 0, orpo.err
    (line,) = orpo.out.splitlines()
    result = json.loads(line)
    assert round(result["scores"]["mistral-orpo-trl"]["overall"], 3) == 7.166
    assert json.loads((out / "evaluation.json").read_text(encoding="utf-8")) == result
    assert "mistral-orpo-trl scores 7.17 of 10 (95 % interval" in orpo.err
    assert orpo("report", out) == 0, orpo.err


def test_a_table_for_people(orpo: Orpo, tmp_path: Path) -> None:
    data = small_benchmark(tmp_path / "data")
    answers = write_lines(tmp_path / "a.jsonl", honest_answers())
    with ScriptedServer(gullible("6")) as server:
        judge = ("--judge", "scripted", "--judge-url", server.url, "--retries", 0)
        files = ("--data", data, "--answers", answers, "--output_dir", tmp_path / "out")
        assert orpo("evaluate", "mt-bench", "m", *files, *judge) == 0, orpo.err
    assert orpo.out == ""
    told = " ".join(orpo.err.split())
    assert "m scores 6.00 of 10" in told
    assert told.count("Do not trust this judge") == 1
    assert "not the benchmark's 80" in told
    assert "Writing" in told


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--judge: is needed"),
        (("--judgments", "none.jsonl"), "none.jsonl: no such file"),
        (("--judge", "j", "--data", "nowhere"), "nowhere: there is no question.jsonl"),
        (("--judge", "j", "--limit", "0"), "--limit"),
    ],
)
def test_mistakes_are_told_in_a_line(
    orpo: Orpo, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    out = ("--output_dir", tmp_path / "out")
    assert orpo("evaluate", "mt-bench", "m", *out, *arguments) == 2
    assert says in orpo.err
    assert "Traceback" not in orpo.err
    assert not (tmp_path / "out").exists()


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "mt-bench", "--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    assert "orpo evaluate mt-bench run --judge gpt-4" in told
    for flag in ("--judge_url", "--also", "--judgments", "--answers", "--limit", "--price_in"):
        assert flag in told
