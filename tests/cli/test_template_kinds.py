"""A run says, keeps and honours the prompt that its template was trained with."""

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from orpo.data.asked import asked_otherwise
from orpo.evaluate.generation import encode_prompt
from tests.cli.conftest import Orpo
from tests.templates import KINDS
from tests.train.small import write_rows

SHORT = ("--max_steps", 1, "--per_device_train_batch_size", 4, "--samples", 0, "--use_cpu")
ASKED = [{"role": "user", "content": "Say 0"}]


@pytest.fixture
def with_template(tiny: Path, tmp_path: Path) -> Any:
    """A copy of the tiny model with a template of a kind."""

    def make(kind: str) -> Path:
        folder = tmp_path / kind
        shutil.copytree(tiny, folder)
        (folder / "chat_template.jinja").write_text(KINDS[kind], encoding="utf-8")
        return folder

    return make


@pytest.mark.parametrize(
    ("kind", "after"), [("qwen3", "<think>\n\n</think>\n\n"), ("r1", "<|Assistant|>")]
)
def test_a_run_keeps_the_prompt_it_was_trained_with(
    kind: str, after: str, orpo: Orpo, with_template: Any, pairs: Path, tmp_path: Path
) -> None:
    model, run = with_template(kind), tmp_path / "run"
    arguments = ("--model", model, "--dataset", pairs, "--output_dir", run, *SHORT)
    orpo.does("train", *arguments)
    said = [line for line in orpo.err.splitlines() if repr(after)[1:-1] in line]
    assert len(said) == 1, orpo.err
    assert ("the template opens with" in said[0]) is (kind == "r1")
    tokenizer = AutoTokenizer.from_pretrained(run)
    assert tokenizer.decode(encode_prompt(tokenizer, ASKED)).endswith(after)
    assert ("## Prompt" in (run / "README.md").read_text(encoding="utf-8")) is (kind == "r1")
    assert bool(asked_otherwise(tokenizer)) is (kind == "r1")
    told = orpo.does("data", "show", pairs, "--model", run, "-n", 1, "--json")
    shown = told["rows"][0]["prompt"]["sequence"]
    assert [token["id"] for token in shown] == encode_prompt(tokenizer, ASKED)
    if kind == "qwen3":
        own = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, tokenize=False)
        assert own.endswith(after)
    else:
        orpo.does("train", *arguments, "--dry_run", "--overwrite")
        assert "the template opens with" in orpo.err
        orpo.does("serve", run, "--dry_run", "--json")
        assert "opens with" in orpo.out


def test_what_the_template_drops_is_told_before_training(
    orpo: Orpo, with_template: Any, pairs: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows):
        row["chosen"][0]["reasoning_content"] = f"because {number}"
    write_rows(pairs, rows)
    run = tmp_path / "run"
    arguments = ("--model", with_template("chatml"), "--dataset", pairs, "--output_dir", run)
    orpo.does("train", *arguments, *SHORT)
    assert "changes answers of 24 of 24 pairs" in orpo.err
    assert "<think>...</think>" in orpo.err
    for row in rows:
        row["rejected"][0] = {**row["chosen"][0], "reasoning_content": "no reason"}
    write_rows(pairs, rows)
    said = orpo.refuses("train", *arguments, *SHORT, "--overwrite")
    assert "24 identical_after_template" in said
    assert "<think>...</think>" in said


def test_a_template_that_asks_for_everything_is_one_line(
    orpo: Orpo, with_template: Any, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_template("chatml")
    (model / "chat_template.jinja").write_text("{{ 'a' * 10 ** 10 }}", encoding="utf-8")
    for command in (
        ("train", "--model", model, "--dataset", pairs, "--output_dir", tmp_path / "r"),
        ("data", "show", pairs, "--model", model),
        ("data", "audit", pairs, "--model", model),
        ("generate", model, "Hi"),
        ("chat", model),
    ):
        monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\n"))
        assert "asks for too much memory" in orpo.refuses(*command)
    assert not (tmp_path / "r" / "metrics.jsonl").exists()
