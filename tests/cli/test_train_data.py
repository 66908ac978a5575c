"""`orpo train` and its data: several at once, by shares, looked at before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Orpo

SHORT = ("--max_steps", "1", "--samples", "0", "--per_device_train_batch_size", "4")
SHORT += ("--report_to", "none")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    rows = [
        {"prompt": f"Question {i}?", "chosen": f"Answer {i}." + " Yes." * (i % 3 == 0),
         "rejected": f"No {i}." + " No." * (i % 3 == 1)}
        for i in range(40)
    ]  # fmt: skip
    return write(tmp_path / "plain.jsonl", rows)


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """Conversations; every second one without a rejected answer."""
    rows: list[dict[str, Any]] = []
    for i in range(20):
        turns = [
            {"role": "user", "content": f"Hi {i}"},
            {"role": "assistant", "content": f"Ho {i}"},
        ]
        rows.append({"messages": turns, "rejected_response": None if i % 2 else f"Hm {i}"})
    return write(tmp_path / "spoken.jsonl", rows)


def train(orpo: Orpo, *given: object) -> dict[str, Any]:
    assert orpo("train", *given, "--json") == 0, orpo.err
    result: dict[str, Any] = json.loads(orpo.out)["data"]
    return result


def refused(orpo: Orpo, *given: object) -> str:
    """What is said in the end where nothing is trained."""
    assert orpo("train", *given) == 2, orpo.out
    assert "Traceback" not in orpo.err
    return orpo.err.strip().splitlines()[-1]


def test_several_data_sets(
    orpo: Orpo, tiny: Path, plain: Path, spoken: Path, tmp_path: Path
) -> None:
    given = ("--model", tiny, "--dataset", plain, spoken, *SHORT)
    run = tmp_path / "run"
    account = train(orpo, *given, "--output_dir", run)["train_dataset"]
    assert account["format"] == "prompt + messages"
    assert (account["rows_in"], account["kept"], account["nll_only"]) == (60, 60, 10)
    assert "10 without rejected answer" in orpo.err
    recipe = run / "recipe.yaml"
    assert yaml.safe_load(recipe.read_text())["dataset"] == [str(plain), str(spoken)]
    mixed = ("--mix", 1, 1, "--output_dir", tmp_path / "mixed")
    account = train(orpo, recipe, *mixed)["train_dataset"]
    assert account["dropped"] == {"not_in_mix": 19}
    assert (account["rows_in"], account["kept"]) == (60, 41)
    data = train(orpo, recipe, "--held_out", "0.3", "--output_dir", tmp_path / "held")
    assert sum(account["rows_in"] for account in data.values()) == 60
    assert data["eval_dataset"]["format"] == "prompt + messages"
    for shares, says in (
        (["1"], "1 shares for 2 data sets"),
        (["1", "-1"], "must be positive"),
        (["1", "nan"], "must"),
    ):
        assert says in refused(orpo, *given, "--mix", *shares)


def test_findings_are_said_and_strict_refuses(
    orpo: Orpo, tiny: Path, plain: Path, tmp_path: Path
) -> None:
    """A run is replaced only when its data are accepted."""
    rows = [json.loads(line) for line in plain.read_text().splitlines()]
    twice, run = write(tmp_path / "twice.jsonl", rows + rows), tmp_path / "run"
    given = ("--model", tiny, "--dataset", twice, *SHORT, "--save_steps", 1)
    train(orpo, *given, "--output_dir", run)
    assert "stop: " in orpo.err
    assert "repeat earlier ones" in orpo.err
    before = sorted(path.name for path in run.iterdir())
    for folder in (run, tmp_path / "other"):
        told = refused(orpo, *given, "--strict", "--output_dir", folder, "--overwrite")
        assert told.startswith("error: --strict: the audit says stop")
    assert sorted(path.name for path in run.iterdir()) == before
    assert not (tmp_path / "other" / "model.safetensors").exists()


def test_data_that_are_no_preferences_or_leave_it_open(
    orpo: Orpo, tiny: Path, tmp_path: Path
) -> None:
    alone = write(tmp_path / "sft.jsonl", [{"prompt": f"p{i}", "chosen": "c"} for i in range(9)])
    told = refused(orpo, "--model", tiny, "--dataset", alone, *SHORT)
    assert "no row has a rejected answer" in told
    assert "'rejected'" in told
    row = {"prompt": "p", "instruction": "i", "chosen": "c", "rejected": "r"}
    both = write(tmp_path / "both.jsonl", [row] * 40)
    given = ("--model", tiny, "--dataset", both, *SHORT, "--output_dir", tmp_path / "r")
    assert "prompt or alpaca" in refused(orpo, *given)
    named = (*given, "--data_format", "alpaca")
    assert "repeat earlier ones" in refused(orpo, *named, "--strict")  # it looks at them as told
    assert train(orpo, *named)["train_dataset"]["format"] == "alpaca"


def test_a_mix_goes_on_where_it_stopped(
    orpo: Orpo, tiny: Path, plain: Path, spoken: Path, tmp_path: Path
) -> None:
    def losses(run: Path) -> list[float]:
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        return [line["loss"] for line in lines if "loss" in line]

    options = ("--model", tiny, "--dataset", plain, spoken, "--mix", 2, 1, *SHORT)
    options += ("--save_steps", 2, "--logging_steps", 1)
    options += ("--lr_scheduler_type", "constant", "--warmup_steps", 0, "--max_steps")
    whole, parts = ("--output_dir", tmp_path / "whole"), ("--output_dir", tmp_path / "parts")
    train(orpo, *options, 4, *whole)
    train(orpo, *options, 2, *parts)
    train(orpo, *options, 4, *parts, "--resume")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
