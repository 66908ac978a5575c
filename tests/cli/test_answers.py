"""`orpo generate`, `orpo chat`, `orpo doctor` and `orpo report`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from orpo.terminal import spelled_out
from tests.cli.conftest import Orpo


def test_generate_reads_texts_lines_and_columns_alike(
    orpo: Orpo, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text("Say 1\n\nSay 2\n", encoding="utf-8")
    rows = [{"prompt": "Say 1"}, {"messages": [{"role": "user", "content": "Say 2"}]}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    short = ("--max_new_tokens", 6, "--json")
    assert orpo("generate", tiny, tmp_path / "p.txt", *short) == 0, orpo.err
    from_lines = [row["answer"] for row in json.loads(orpo.out)["answers"]]
    assert orpo("generate", tiny, tmp_path / "p.jsonl", *short) == 0, orpo.err
    assert [row["answer"] for row in json.loads(orpo.out)["answers"]] == from_lines
    assert orpo("generate", tiny, "Say 2", *short) == 0
    assert json.loads(orpo.out)["answers"][0]["answer"] == from_lines[1]
    assert len(from_lines) == 2


def test_answers_do_not_depend_on_the_batch(orpo: Orpo, tiny: Path, tmp_path: Path) -> None:
    prompts = [f"Say {'x' * n}" for n in (1, 30, 7, 60, 2)]
    (tmp_path / "p.txt").write_text("\n".join(prompts), encoding="utf-8")
    answers = []
    for size in (1, 5):
        options = ("--batch_size", size, "--max_new_tokens", 8, "--json")
        assert orpo("generate", tiny, tmp_path / "p.txt", *options) == 0, orpo.err
        answers.append(json.loads(orpo.out)["answers"])
    assert answers[0] == answers[1]
    assert [row["prompt"] for row in answers[0]] == prompts


def test_drawn_answers_repeat_with_their_seed(orpo: Orpo, tiny: Path) -> None:
    seen = []
    for seed in (1, 1, 2):
        options = ("--temperature", 1, "--seed", seed, "--max_new_tokens", 12, "--json")
        assert orpo("generate", tiny, "Say 4", *options) == 0
        seen.append(orpo.out)
    assert seen[0] == seen[1] != seen[2]


def test_generate_writes_jsonl(orpo: Orpo, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "answers.jsonl"
    assert orpo("generate", tiny, "你好", "--max_new_tokens", 4, "--output", out) == 0, orpo.err
    (row,) = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    assert row["prompt"] == "你好"
    assert orpo.out == ""


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.txt", "\n\n", "no prompt"),
        ("empty.jsonl", "", "empty"),
        ("other.jsonl", '{"question": "?"}', "other.jsonl:1"),
        ("broken.jsonl", '{"prompt": "a"}\n{"prompt"', "broken.jsonl:2"),
    ],
)
def test_wrong_prompts_are_named(
    orpo: Orpo, tiny: Path, tmp_path: Path, name: str, content: str, said: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert orpo("generate", tiny, tmp_path / name) == 2
    assert said in orpo.err
    assert len(orpo.err.strip().splitlines()) == 1


def test_chat_answers_remembers_and_forgets(
    orpo: Orpo, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "Say 1\n\nSay 2\n/reset\nSay 2\n/exit\nnever read\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert orpo("chat", tiny, "--system", "Be short.", "--max_new_tokens", 5, "--json") == 0, (
        orpo.err
    )
    turns = json.loads(orpo.out)["messages"]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant"]
    assert turns[1]["content"] == "Say 2"


def test_chat_streams_to_stdout(orpo: Orpo, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Say 1\n"))
    assert orpo("generate", tiny, "Say 1", "--max_new_tokens", 5, "--json") == 0
    answer = json.loads(orpo.out)["answers"][0]["answer"]
    monkeypatch.setattr("sys.stdin", io.StringIO("Say 1\n"))
    assert orpo("chat", tiny, "--max_new_tokens", 5) == 0, orpo.err
    assert orpo.out.strip().removeprefix("\\x0b") == spelled_out(answer)  # white space is kept


def test_a_conversation_that_outgrows_the_model_is_refused(
    orpo: Orpo, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("x" * 600 + "\n"))
    assert orpo("chat", tiny, "--max_new_tokens", 5) == 2
    assert "/reset" in orpo.err


def test_doctor_says_what_is_there_and_what_would_be_chosen(orpo: Orpo, tiny: Path) -> None:
    assert orpo("doctor", "--model", tiny, "--json") == 0, orpo.err
    found = json.loads(orpo.out)
    assert found["versions"]["torch"]
    assert found["device"]["kind"] in {"cpu", "cuda", "mps"}
    assert "shared" in found["would_choose"]["engine"]
    assert found["model"]["trainable"] == "yes"
    assert found["model"]["engine"].startswith("shared engine")
    assert "shared" in orpo.err
