"""`orpo train` and its data: several at once, by shares, looked at before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Orpo

SHORT = ("--max_steps", "2", "--samples", "0", "--per_device_train_batch_size", "4")


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


def train(orpo: Orpo, tiny: Path, run: Path, *given: object) -> dict[str, Any]:
    code = orpo("train", "--model", tiny, *SHORT, "--output_dir", run, "--json", *given)
    assert code == 0, orpo.err
    result: dict[str, Any] = json.loads(orpo.out)["data"]["train_dataset"]
    return result


def test_several_data_sets_follow_one_another(
    orpo: Orpo, tiny: Path, plain: Path, spoken: Path, tmp_path: Path
) -> None:
    account = train(orpo, tiny, tmp_path / "run", "--dataset", plain, spoken)
    assert account["format"] == "prompt + messages"
    assert (account["rows_in"], account["kept"], account["nll_only"]) == (60, 60, 10)
    assert "10 without rejected answer" in orpo.err
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert recipe["dataset"] == [str(plain), str(spoken)]
    assert orpo("train", tmp_path / "run" / "recipe.yaml", "--output_dir", tmp_path / "b") == 0


def test_data_sets_are_mixed_by_shares(
    orpo: Orpo, tiny: Path, plain: Path, spoken: Path, tmp_path: Path
) -> None:
    account = train(orpo, tiny, tmp_path / "run", "--dataset", plain, spoken, "--mix", 1, 1)
    assert account["dropped"] == {"not_in_mix": 19}
    assert (account["rows_in"], account["kept"]) == (60, 41)


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        (["1"], "1 shares for 2 data sets"),
        (["1", "-1"], "must be positive"),
        (["1", "nan"], "must"),
    ],
)
def test_shares_that_cannot_be_meant(
    shares: list[str], says: str, orpo: Orpo, tiny: Path, plain: Path, spoken: Path
) -> None:
    assert orpo("train", "--model", tiny, "--dataset", plain, spoken, "--mix", *shares) == 2
    assert says in orpo.err
    assert "Traceback" not in orpo.err


def test_a_mix_held_out_by_prompt(
    orpo: Orpo, tiny: Path, plain: Path, spoken: Path, tmp_path: Path
) -> None:
    options = ("--dataset", plain, spoken, "--held_out", "0.3")
    code = orpo(
        "train", "--model", tiny, *SHORT, *options, "--output_dir", tmp_path / "r", "--json"
    )
    assert code == 0, orpo.err
    data = json.loads(orpo.out)["data"]
    assert sum(account["rows_in"] for account in data.values()) == 60
    assert data["eval_dataset"]["format"] == "prompt + messages"


def test_findings_are_said_and_strict_refuses(
    orpo: Orpo, tiny: Path, plain: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in plain.read_text().splitlines()]
    twice = write(tmp_path / "twice.jsonl", rows + rows)
    train(orpo, tiny, tmp_path / "run", "--dataset", twice)
    assert "stop: " in orpo.err
    assert "repeat earlier ones" in orpo.err
    strict = ("--strict", "--output_dir", tmp_path / "other")
    assert orpo("train", "--model", tiny, "--dataset", twice, *SHORT, *strict) == 2
    last = orpo.err.strip().splitlines()[-1]
    assert last.startswith("error: --strict: the audit says stop")
    assert not (tmp_path / "other" / "model.safetensors").exists()


def test_a_data_set_without_rejected_answers_is_no_preference_data(
    orpo: Orpo, tiny: Path, tmp_path: Path
) -> None:
    path = write(tmp_path / "sft.jsonl", [{"prompt": f"p{i}", "chosen": "c"} for i in range(9)])
    assert orpo("train", "--model", tiny, "--dataset", path, *SHORT) == 2
    assert "no row has a rejected answer" in orpo.err
    assert "'rejected'" in orpo.err


def test_an_ambiguous_data_set_is_read_as_told(orpo: Orpo, tiny: Path, tmp_path: Path) -> None:
    row = {"prompt": "p", "instruction": "i", "chosen": "c", "rejected": "r"}
    path = write(tmp_path / "both.jsonl", [row] * 4)
    options = ("--dataset", path, *SHORT)
    assert orpo("train", "--model", tiny, *options) == 2
    assert "prompt or alpaca" in orpo.err
    account = train(orpo, tiny, tmp_path / "r", "--dataset", path, "--data_format", "alpaca")
    assert account["format"] == "alpaca"


def test_a_run_is_replaced_only_when_its_data_are_accepted(
    orpo: Orpo, tiny: Path, plain: Path, tmp_path: Path
) -> None:
    rows = plain.read_text().splitlines()
    twice = tmp_path / "twice.jsonl"
    twice.write_text("\n".join(rows + rows))
    run, options = tmp_path / "run", ("--save_steps", "1", "--overwrite")
    train(orpo, tiny, run, "--dataset", plain, *options)
    before = sorted(path.name for path in run.iterdir())
    refused = ("--dataset", twice, "--strict", "--output_dir", run, *options)
    assert orpo("train", "--model", tiny, *SHORT, *refused) == 2
    assert sorted(path.name for path in run.iterdir()) == before


def test_strict_looks_at_data_whose_format_was_named(
    orpo: Orpo, tiny: Path, tmp_path: Path
) -> None:
    row = {"prompt": "p", "instruction": "i", "chosen": "c", "rejected": "r"}
    path = write(tmp_path / "both.jsonl", [row] * 40)
    options = ("--dataset", path, "--data_format", "alpaca", "--strict")
    assert orpo("train", "--model", tiny, *SHORT, *options, "--output_dir", tmp_path / "r") == 2
    assert "repeat earlier ones" in orpo.err


def test_a_mix_goes_on_where_it_stopped(
    orpo: Orpo, tiny: Path, plain: Path, spoken: Path, tmp_path: Path
) -> None:
    def losses(run: Path) -> list[float]:
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        return [line["loss"] for line in lines if "loss" in line]

    options = ("--model", tiny, "--dataset", plain, spoken, "--mix", 2, 1, "--samples", 0)
    options += ("--save_steps", 2, "--logging_steps", 1, "--per_device_train_batch_size", 4)
    options += ("--lr_scheduler_type", "constant", "--warmup_steps", 0)
    whole, parts = ("--output_dir", tmp_path / "whole"), ("--output_dir", tmp_path / "parts")
    assert orpo("train", *options, "--max_steps", 5, *whole) == 0, orpo.err
    assert orpo("train", *options, "--max_steps", 2, *parts) == 0, orpo.err
    assert orpo("train", *options, "--max_steps", 5, *parts, "--resume") == 0, orpo.err
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
