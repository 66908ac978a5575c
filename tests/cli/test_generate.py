"""`orpo generate` with a store and with a server."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Orpo
from tests.evaluate.judge.server import ScriptedServer
from tests.servers import free_port
from tests.train.small import write_rows


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "p.txt"
    path.write_text("\n".join(f"Say {n}" for n in range(6)), encoding="utf-8")
    return path


def test_the_same_command_goes_on(orpo: Orpo, tiny: Path, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    drawn = ("--max_new_tokens", 8, "--temperature", 1, "--output", out)
    orpo.does("generate", tiny, prompts, *drawn)
    whole = out.read_bytes()
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[::2]) + b'{"id": "2", "pro')
    orpo.does("generate", tiny, prompts, *drawn)
    assert out.read_bytes() == whole
    assert "the last line was cut off" in orpo.err
    assert "3 of 6 answers are in" in orpo.err
    said = orpo.refuses("generate", tiny, prompts, *drawn, "--seed", 7)
    assert "with seed 42, now it is 7" in said
    assert out.read_bytes() == whole
    orpo.does("generate", tiny, prompts, *drawn, "--seed", 7, "--overwrite")
    assert out.read_bytes() != whole


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--server", f"http://127.0.0.1:{free_port()}"), "no server answers"),
        (("--server", "localhost"), "is no address of a server"),
        (("--server", "http://h", "--raw"), "--raw: a server applies its chat template"),
        (("--server", "http://h", "--chat_template_kwargs", '{{"a": 1}}'), "renders its chat"),
        (("--temperature", "-1"), "--temperature"),
        (("--top_p", "0"), "--top_p"),
        (("--output", "{prompts}"), "is the file of prompts"),
        (("--output", "{folder}"), "is a folder"),
    ],
)
def test_wrong_options_are_one_line(
    orpo: Orpo, tiny: Path, prompts: Path, options: tuple[str, ...], words: str
) -> None:
    given = [o.format(prompts=prompts, folder=prompts.parent) for o in options]
    before = prompts.read_bytes()
    assert words in orpo.refuses_at_once("generate", tiny, prompts, *given, "--max-new-tokens", 2)
    assert prompts.read_bytes() == before


def test_a_server_is_asked_turn_after_turn_and_once(orpo: Orpo, tmp_path: Path) -> None:
    rows = [
        {"question_id": 81, "category": "math", "turns": ["One?", "Two?"], "reference": ["1", "2"]},
        {"id": "x", "instruction": "Add.", "input": "1 and 2", "system": "Be brief."},
        {"prompt": "Say 5"},
    ]
    path, out = write_rows(tmp_path / "p.jsonl", rows), tmp_path / "a.jsonl"
    with ScriptedServer(lambda asked: f"{len(asked.body['messages'])} messages") as server:
        run = ("generate", "my-model", path, "--server", server.url, "--output", out)
        two, one, text = orpo.does(*run, "--json")["answers"]
        asked = len(server.asked)
        orpo.does(*run)
        assert (len(server.asked), orpo.out) == (asked, "")
        orpo.does(*run[:-2])
        assert orpo.out.split("\n\n") == [
            "user: One?\nassistant: 1 messages\nuser: Two?\nassistant: 3 messages",
            "system: Be brief.\nuser: Add.",  # the prompt's own empty line
            "1 and 2\nassistant: 2 messages",
            "user: Say 5\nassistant: 1 messages\n",
        ]
    assert two == {"turns": ["One?", "Two?"], "answers": ["1 messages", "3 messages"]}
    assert one["prompt"][-1] == {"role": "user", "content": "Add.\n\n1 and 2"}
    assert text == {"prompt": "Say 5", "answer": "1 messages"}
    kept = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    own = [(line["id"], line.get("category")) for line in kept[:2]]
    assert own == [("81", "math"), ("x", None)]
    assert kept[2]["model"] == "my-model"


def test_generate_reads_texts_lines_and_columns_alike(
    orpo: Orpo, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text("Say 1\n\nSay 2\n", encoding="utf-8")
    rows = [{"prompt": "Say 1"}, {"messages": [{"role": "user", "content": "Say 2"}]}]
    write_rows(tmp_path / "p.jsonl", rows)

    def answers(prompts: object) -> list[str]:
        told = orpo.does("generate", tiny, prompts, "--max_new_tokens", 6, "--json")
        return [row["answer"] for row in told["answers"]]

    _, second = of_lines = answers(tmp_path / "p.txt")
    assert answers(tmp_path / "p.jsonl") == of_lines
    assert answers("Say 2") == [second]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.jsonl", '{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}', "'1' is there twice"),
        ("p.jsonl", '{"prompt": " "}', "has no text"),
        ("p.jsonl", '{"messages": [{"role": "assistant", "content": "a"}]}', "ends with 'assist"),
        ("p.jsonl", '{"turns": []}', "no prompt in this row"),
        ("p.jsonl", '{"question": "?"}', "p.jsonl:1"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt"', "p.jsonl:2"),
        ("p.jsonl", "", "empty"),
        ("p.txt", "\n\n", "holds no prompt"),
        ("p.txt", "\udcff", "is not UTF-8 at byte 0. Convert it"),
        ("p.csv", None, "no such file"),
    ],
)
def test_wrong_prompts_are_named(
    orpo: Orpo, tiny: Path, tmp_path: Path, name: str, content: str | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8", errors="surrogateescape")
    assert words in orpo.refuses_at_once("generate", tiny, tmp_path / name)
