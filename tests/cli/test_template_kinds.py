"""A run says, keeps and honours the prompt that its template was trained with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from orpo.data import asked_otherwise
from orpo.evaluate.generation import encode_prompt
from tests.cli.conftest import Orpo
from tests.templates import KINDS

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
    assert orpo("train", *arguments) == 0, orpo.err
    said = [line for line in orpo.err.splitlines() if repr(after)[1:-1] in line]
    assert len(said) == 1, orpo.err
    assert ("the template opens with" in said[0]) is (kind == "r1")
    tokenizer = AutoTokenizer.from_pretrained(run)
    assert tokenizer.decode(encode_prompt(tokenizer, ASKED)).endswith(after)
    assert ("## Prompt" in (run / "README.md").read_text(encoding="utf-8")) is (kind == "r1")
    assert bool(asked_otherwise(tokenizer)) is (kind == "r1")
    assert orpo("data", "show", pairs, "--model", run, "-n", 1, "--json") == 0, orpo.err
    shown = json.loads(orpo.out)["rows"][0]["prompt"]["sequence"]
    assert [token["id"] for token in shown] == encode_prompt(tokenizer, ASKED)
    if kind == "qwen3":
        own = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, tokenize=False)
        assert own.endswith(after)
    else:
        assert orpo("train", *arguments, "--dry_run", "--overwrite") == 0
        assert "the template opens with" in orpo.err
        assert orpo("serve", run, "--dry_run", "--json") == 0, orpo.err
        assert "opens with" in orpo.out
