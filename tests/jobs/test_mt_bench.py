"""`orpo evaluate mt-bench`: answers of a small real model, a judge behind real HTTP, a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import orpo.demo
from orpo.commands.main import main
from orpo.evaluate import read_judgments
from tests.evaluate.judge.server import ScriptedServer
from tests.evaluate.mt_bench.files import gullible, honest_answers, small_benchmark, write_lines

pytest.importorskip("openai")

BASE = Path(orpo.demo.__file__).parent / "assets" / "base"
Run = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """What --json prints, and what is said."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-never-to-be-seen")
    monkeypatch.chdir(tmp_path)

    def evaluate(*arguments: object, code: int = 0) -> tuple[dict[str, Any], str]:
        capfd.readouterr()
        words = [str(one) for one in ("evaluate", "mt-bench", *arguments, "--json")]
        assert main([*words, "--output_dir", "out"]) == code
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return json.loads(out) if out else {}, " ".join(err.split())

    return evaluate


def asking(folder: Path, url: str) -> tuple[object, ...]:
    data = small_benchmark(folder / "data")
    return "--data", data, "--judge", "scripted", "--judge-url", url, "--retries", 0


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_answers_judgments_and_page_and_the_same_again_for_nothing(
    tmp_path: Path, run: Run
) -> None:
    with ScriptedServer(gullible("5")) as server:
        words = (BASE, *asking(tmp_path, server.url), "--name", "demo", "--max_new_tokens", 8)
        result, told = run(*words)
        asked = len(server.asked)
        assert asked == 8 + result["trust"]["canaries"] == result["cost"]["requests"]
        again, _ = run(*words)
        assert len(server.asked) == asked
    out = tmp_path / "out"
    assert json.loads((out / "evaluation.json").read_text(encoding="utf-8")) == again
    for name in ("temperature-0.jsonl", "temperature-0.1.jsonl", "temperature-0.7.jsonl"):
        assert (out / "answers" / name).is_file()
    assert "1 question at temperature 0.7" in told
    assert "demo scores 5.00 of 10" in told
    assert told.count("Do not trust this judge") == 1
    assert "not the benchmark's 80" in told
    assert "Writing" in told
    assert again["scores"] == result["scores"]
    assert again["cost"]["from_cache"] == asked

    # As FastChat's own loaders take its files apart.
    answers = read_lines(out / "answers.jsonl")
    assert [one["question_id"] for one in answers] == [200, 201, 202, 203]
    for one in answers:
        assert set(one) == {"question_id", "answer_id", "model_id", "choices", "tstamp"}
        assert one["model_id"] == "demo"
        assert len(one["choices"][0]["turns"]) == 2
    rows = read_lines(out / "judgments.jsonl")
    assert len(rows) == 8
    assert rows[1]["judge"] == ["scripted", "single-v1-multi-turn"]
    assert answers[0]["choices"][0]["turns"][1] in rows[1]["user_prompt"]
    assert all(isinstance(row["score"], int) for row in rows)

    account = result["account"]
    named = ("scored", "unparsed", "out_of_range")
    assert account["judgments"] == sum(account[name] for name in named) == 8
    assert result["model"] == "demo"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Do not trust this judge" in page
    assert "4 questions, not the benchmark" in page
    everything = "".join(
        path.read_text(encoding="utf-8", errors="ignore") for path in out.rglob("*.*")
    )
    assert "sk-never-to-be-seen" not in everything
    for name in ("radar.svg", "radar.png", "turns.svg", "turns.png"):
        assert (out / "figures" / name).stat().st_size > 1000


def test_what_is_wrong_or_other_is_said_before_anything_is_replaced(
    tmp_path: Path, run: Run
) -> None:
    answers = write_lines(tmp_path / "a.jsonl", honest_answers())
    short = write_lines(tmp_path / "short.jsonl", honest_answers()[1:])
    with ScriptedServer(gullible("5")) as server:
        common = ("m", *asking(tmp_path, server.url))
        run(*common, "--answers", answers)
        asked = len(server.asked)
        _, said = run(*common, "--answers", short, "--overwrite", code=2)
        assert "question 200 not answered" in said
        _, said = run(*common, "--also", "none.jsonl", "--overwrite", code=2)
        assert "none.jsonl: no such file" in said
        _, said = run(*common, "--answers", answers, "--limit", 2, code=2)
        assert "holds an evaluation with limit None, now it is 2" in said
        assert len(server.asked) == asked
        assert len(read_judgments(tmp_path / "out" / "judgments.jsonl")) == 8
        result, _ = run(*common, "--answers", answers, "--limit", 2, "--overwrite")
        assert result["account"]["questions"] == 2
        assert result["account"]["answers_to_other_questions"] == 2
        assert len(server.asked) - asked <= result["trust"]["canaries"]  # answers were judged
    assert len(read_judgments(tmp_path / "out" / "judgments.jsonl")) == 4


def test_the_published_judgments(shared_data: Path, tmp_path: Path, run: Run) -> None:
    folder = shared_data / "mt_bench"
    judgments = folder / "judgments.jsonl"
    also = f"{judgments}=mistral-orpo-trl"
    words = ("mistral-orpo-trl", "--data", folder, "--judgments", judgments, "--also", also)
    result, said = run(*words)
    assert "mistral-orpo-trl scores 7.17 of 10 (95 % interval" in said
    assert list(result["scores"]) == ["mistral-orpo-trl", "mistral-orpo-capybara"]
    assert round(result["scores"]["mistral-orpo-trl"]["overall"], 3) == 7.166
    difference = result["differences"]["mistral-orpo-capybara"]
    assert difference["value"] == pytest.approx(7.165625 - 6.81875)
    assert difference["low"] < 0 < difference["high"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for shown in ("7.17", "6.82", "7.32", "±0.05", "Mistral-ORPO-beta (figure)", "gpt-4"):
        assert shown in page
    assert main(["report", str(tmp_path / "out")]) == 0


def test_other_models_keep_apart_under_one_name(tmp_path: Path, run: Run) -> None:
    def judged(name: str, score: int) -> Path:
        rows = [
            {"question_id": n, "model": "m", "judge": ["j", "p"], "score": score, "turn": 1}
            for n in (81, 91, 101)
        ]
        return write_lines(tmp_path / name, rows)

    own, first, second = judged("own.jsonl", 5), judged("a.jsonl", 4), judged("b.jsonl", 3)
    result, _ = run("m", "--judgments", own, "--also", first, second)
    overall = {name: one["overall"] for name, one in result["scores"].items()}
    assert overall == {"m": 5, "m (a)": 4, "m (b)": 3}
    assert result["differences"]["m (b)"]["value"] == 2


def test_text_of_models_is_inert_on_the_page(tmp_path: Path, run: Run) -> None:
    nasty = "<script>alert('canary')</script><img src=http://canary.invalid/x onerror=alert(1)>$x$"
    rows = [
        {
            "question_id": n,
            "model": nasty,
            "judge": [nasty, nasty],
            "user_prompt": nasty,
            "judgment": nasty + "\x1b[31m\u202e",
            "score": 3,
            "turn": 1,
            "flags": [nasty],
        }
        for n in (81, 91, 101)
    ]
    path = write_lines(tmp_path / "j.jsonl", rows)
    run(nasty, "--judgments", path)
    for name in ("report.html", "figures/radar.svg"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "<script>alert" not in text
        assert "<img" not in text
        assert "\x1b" not in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--judge: is needed"),
        (("--judgments", "none.jsonl"), "none.jsonl: no such file"),
        (("--judge", "j", "--data", "nowhere"), "nowhere: there is no question.jsonl"),
        (("--judge", "j", "--limit", "0"), "--limit"),
        (("--judgments", "j", "--limit", 3), "--limit: there is nothing to ask for"),
        (("--judgments", "j", "--answers", "a"), "--answers: there is nothing"),
        (("--judge", "j", "--answers", "a", "--server", "http://x"), "--server: there is nothing"),
    ],
)
def test_mistakes_are_told_in_a_line(
    tmp_path: Path, run: Run, arguments: tuple[object, ...], says: str
) -> None:
    result, said = run("m", *arguments, code=2)
    assert result == {}
    assert says in said
    assert not (tmp_path / "out").exists()


def test_a_runs_folder_is_left_alone(tmp_path: Path, run: Run) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "recipe.yaml").write_text("{}")
    line = {"question_id": 81, "model": "m", "score": 3, "turn": 1}
    path = write_lines(tmp_path / "j.jsonl", [line])
    assert "is the folder of a run" in run("m", "--judgments", path, "--overwrite", code=2)[1]


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "mt-bench", "--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    assert "orpo evaluate mt-bench run --judge gpt-4" in told
    for flag in ("--judge_url", "--also", "--judgments", "--answers", "--limit", "--price_in"):
        assert flag in told
