"""MT-Bench as a whole: real answers of a small real model, a judge behind real HTTP, a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import orpo.demo
from orpo.errors import ConfigError, DataError
from orpo.evaluate import Sampling, read_judgments
from orpo.evaluate.settings import JudgeSettings
from orpo.jobs.mt_bench_job import MTBenchJob, run_mt_bench
from tests.evaluate.judge.server import ScriptedServer
from tests.evaluate.mt_bench.files import gullible, honest_answers, small_benchmark, write_lines

pytest.importorskip("openai")

BASE = Path(orpo.demo.__file__).parent / "assets" / "base"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-never-to-be-seen")


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(job: MTBenchJob) -> tuple[dict[str, Any], str]:
    told: list[str] = []
    return run_mt_bench(job, say=told.append), "\n".join(told)


def job_for(folder: Path, url: str, **more: Any) -> MTBenchJob:
    out = folder / "out"
    judge = JudgeSettings("scripted", base_url=url, retries=0, cache=out / "judge-cache.jsonl")
    data = small_benchmark(folder / "data")
    given: dict[str, Any] = {"data": data, "judge": judge, "output_dir": out, **more}
    return MTBenchJob(**{"model": str(BASE), **given})


def test_answers_judgments_and_page_and_the_same_again_for_nothing(tmp_path: Path) -> None:
    sampling = Sampling(max_new_tokens=8)
    with ScriptedServer(gullible("5")) as server:
        job = job_for(tmp_path, server.url, name="demo", sampling=sampling)
        result, told = run(job)
        asked = len(server.asked)
        assert asked == 8 + result["trust"]["canaries"] == result["cost"]["requests"]
        again, _ = run(job)
        assert len(server.asked) == asked
    out = tmp_path / "out"
    for name in ("temperature-0.jsonl", "temperature-0.1.jsonl", "temperature-0.7.jsonl"):
        assert (out / "answers" / name).is_file()
    assert "1 question at temperature 0.7" in told
    assert again["scores"] == result["scores"]
    assert again["cost"]["from_cache"] == asked
    assert result == json.loads(json.dumps(result))

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


def test_other_settings_need_another_folder_or_overwrite(tmp_path: Path) -> None:
    answers = write_lines(tmp_path / "a.jsonl", honest_answers())
    with ScriptedServer(gullible("5")) as server:
        job = job_for(tmp_path, server.url, model="m", answers=answers)
        run(job)
        with pytest.raises(ConfigError, match="holds an evaluation with limit None, now it is 2"):
            run(job_for(tmp_path, server.url, model="m", answers=answers, limit=2))
        asked = len(server.asked)
        result, _ = run(
            job_for(tmp_path, server.url, model="m", answers=answers, limit=2, overwrite=True)
        )
        assert result["account"]["questions"] == 2
        assert result["account"]["answers_to_other_questions"] == 2
        assert len(server.asked) - asked <= result["trust"]["canaries"]  # answers were judged
    assert len(read_judgments(tmp_path / "out" / "judgments.jsonl")) == 4


def test_what_is_wrong_is_said_before_anything_is_replaced(tmp_path: Path) -> None:
    answers = write_lines(tmp_path / "a.jsonl", honest_answers())
    with ScriptedServer(gullible("5")) as server:
        run(job_for(tmp_path, server.url, model="m", answers=answers))
        asked = len(server.asked)
        short = write_lines(tmp_path / "short.jsonl", honest_answers()[1:])
        with pytest.raises(DataError, match="question 200 not answered"):
            run(job_for(tmp_path, server.url, model="m", answers=short, overwrite=True))
        with pytest.raises(DataError, match=r"none.jsonl: no such file"):
            run(job_for(tmp_path, server.url, model="m", also=("none.jsonl",), overwrite=True))
        assert len(server.asked) == asked
    assert len(read_judgments(tmp_path / "out" / "judgments.jsonl")) == 8


def test_the_published_judgments(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "mt_bench"
    result, _ = run(
        MTBenchJob(
            "mistral-orpo-trl",
            tmp_path / "out",
            data=folder,
            judgments=folder / "judgments.jsonl",
            also=(f"{folder / 'judgments.jsonl'}=mistral-orpo-trl",),
        )
    )
    assert list(result["scores"]) == ["mistral-orpo-trl", "mistral-orpo-capybara"]
    assert round(result["scores"]["mistral-orpo-trl"]["overall"], 3) == 7.166
    difference = result["differences"]["mistral-orpo-capybara"]
    assert difference["value"] == pytest.approx(7.165625 - 6.81875)
    assert difference["low"] < 0 < difference["high"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for shown in ("7.17", "6.82", "7.32", "±0.05", "Mistral-ORPO-beta (figure)", "gpt-4"):
        assert shown in page


def test_other_models_keep_apart_under_one_name(tmp_path: Path) -> None:
    def judged(path: Path, score: int) -> Path:
        rows = [
            {"question_id": n, "model": "m", "judge": ["j", "p"], "score": score, "turn": 1}
            for n in (81, 91, 101)
        ]
        return write_lines(path, rows)

    own = judged(tmp_path / "own.jsonl", 5)
    others = (str(judged(tmp_path / "a.jsonl", 4)), str(judged(tmp_path / "b.jsonl", 3)))
    result, _ = run(MTBenchJob("m", tmp_path / "out", judgments=own, also=others))
    assert {k: v["overall"] for k, v in result["scores"].items()} == {
        "m": 5,
        "m (a)": 4,
        "m (b)": 3,
    }
    assert result["differences"]["m (b)"]["value"] == 2


def test_text_of_models_is_inert_on_the_page(tmp_path: Path) -> None:
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
    run(MTBenchJob(nasty, tmp_path / "out", judgments=path))
    for name in ("report.html", "figures/radar.svg"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "<script>alert" not in text
        assert "<img" not in text
        assert "\x1b" not in text


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "--judge: is needed"),
        ({"judgments": Path("j"), "limit": 3}, "--limit: there is nothing to ask for"),
        ({"judgments": Path("j"), "answers": Path("a")}, "--answers: there is nothing"),
        (
            {"judge": JudgeSettings("j"), "answers": Path("a"), "server": "http://x"},
            "--server: there is nothing",
        ),
    ],
)
def test_what_does_not_go_together(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        MTBenchJob("m", **given)


def test_a_runs_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{}")
    path = write_lines(
        tmp_path / "j.jsonl", [{"question_id": 81, "model": "m", "score": 3, "turn": 1}]
    )
    with pytest.raises(ConfigError, match="is the folder of a run"):
        run(MTBenchJob("m", tmp_path, judgments=path, overwrite=True))
