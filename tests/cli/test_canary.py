"""A token that a run is given, or finds around it, is in no file and on no screen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from orpo.errors import ConfigError
from tests.cli.conftest import Orpo

CANARIES = {
    name: f"hf_{name.replace('_', '').lower()}Canary0123456789"
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "GIVEN", "KWARGS")
}


@pytest.fixture
def watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Orpo]:
    """Looks for canaries in the end: in what was said, and in every byte below `tmp_path`."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, CANARIES[name])
    monkeypatch.setattr("orpo.data.prepare._WORTH_KEEPING", 1)
    said = []

    class Watched(Orpo):
        def __call__(self, *arguments: object) -> int:
            code = super().__call__(*arguments)
            said.append(self.out + self.err)
            return code

    yield Watched(capfd)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    for name, canary in CANARIES.items():
        assert not [text for text in said if canary in text], name
        found = [str(path) for path in files if canary.encode() in path.read_bytes()]
        assert not found, (name, found)


def test_in_the_life_of_a_run(watched: Orpo, tiny: Path, pairs: Path, tmp_path: Path) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    settings = ("--model", tiny, "--dataset", pairs, "--held_out", 0.3, "--output_dir", run)
    settings += ("--max_steps", 2, "--save_steps", 1, "--samples", 1, "--sample_tokens", 4)
    settings += ("--data_cache", cache, "--hub_token", CANARIES["GIVEN"], "--logging_steps", 1)
    settings += ("--model_init_kwargs", json.dumps({"token": CANARIES["KWARGS"]}))
    watched.does("train", *settings, "--json")
    assert list(cache.rglob("pairs.arrow"))
    shutil.rmtree(run / "checkpoint-2")
    watched.does("train", *settings, "--resume")
    watched.refuses("train", *settings, "--overwrite", "--learning_rate", "fast")
    watched.does("report", run)
    watched.does("doctor")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert recipe["model_init_kwargs"] == {}
    names = {path.name for path in run.rglob("*")}
    assert {"optimizer.pt", "recipe.yaml", "metrics.jsonl", "trainer_state.json"} <= names


def test_in_a_complaint(watched: Orpo, tiny: Path, pairs: Path, tmp_path: Path) -> None:
    token = CANARIES["GIVEN"]
    address = f"https://user:{token}@huggingface.co/datasets/org/name"
    asked = f"https://huggingface.co/org/name?token={token}"
    run = tmp_path / "run"
    for arguments in (
        ("--model", tiny, "--dataset", address),
        ("--model", tiny, "--dataset", asked),
        ("--model", address, "--dataset", pairs),
        ("--model", f"org/{token}", "--dataset", pairs),
        ("--model", "org/none", "--dataset", pairs, "--hub_token", token),
        ("--model", tiny, "--dataset", pairs, "--hub_tokn", token),
        ("--model", tiny, "--dataset", pairs, f"--hub_tokn={token}"),
        ("--model", tiny, "--dataset", pairs, "--model_init_kwargs", f'{{"token": "{token}"'),
        ("--model", tiny, "--dataset", pairs, "--model_init_kwargs", f'{{"tokn": "{token}"}}'),
    ):
        watched.refuses("train", *arguments, "--output_dir", run)
        assert not (run / "recipe.yaml").exists()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pass@host/x", "https://***@host/x"),
        ("https://host/x?a=1&token=abc&b=2", "https://host/x?a=1&token=***&b=2"),
        (f"hf_{'a1B2' * 8}", "***"),
        ("hf_preferences.jsonl", "hf_preferences.jsonl"),
        ("eos_token=</s>", "eos_token=</s>"),
        ("me@host", "me@host"),
    ],
)
def test_what_is_left_out_of_messages(text: str, shown: str) -> None:
    assert str(ConfigError("is wrong", where=text)) == f"{shown}: is wrong"
