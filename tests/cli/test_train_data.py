"""`orpo train` and its data: several at once, shares, what is held out, what cannot be read."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from orpo.data import reading
from tests.cli.conftest import Orpo
from tests.train.small import write_rows

_opened = Counter[str]()
sys.addaudithook(lambda event, given: _opened.update([str(given[0])] if event == "open" else []))

SHORT = ("--max_steps", 1, "--samples", 0, "--per_device_train_batch_size", 4)
SHORT += ("--report_to", "none")
SHARE = ("--held_out", 0.3, "--seed", 7)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    rows = [
        {"prompt": f"Question {i}?", "chosen": f"Answer {i}." + " Yes." * (i % 3 == 0),
         "rejected": f"No {i}." + " No." * (i % 3 == 1)}
        for i in range(40)
    ]  # fmt: skip
    return write_rows(tmp_path / "plain.jsonl", rows)


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """Conversations; every second one without a rejected answer."""
    rows: list[dict[str, Any]] = []
    for i in range(20):
        said = (("user", f"Hi {i}"), ("assistant", f"Ho {i}"))
        turns = [{"role": role, "content": text} for role, text in said]
        rows.append({"messages": turns, "rejected_response": None if i % 2 else f"Hm {i}"})
    return write_rows(tmp_path / "spoken.jsonl", rows)


def accounts(orpo: Orpo, *given: object) -> dict[str, Any]:
    found: dict[str, Any] = orpo.does("train", *given, "--json")["data"]
    return found


def test_several_data_sets(
    orpo: Orpo, tiny: Path, plain: Path, spoken: Path, tmp_path: Path
) -> None:
    given = ("--model", tiny, "--dataset", plain, spoken, *SHORT)
    run = tmp_path / "run"
    account = accounts(orpo, *given, "--output_dir", run)["train_dataset"]
    assert account["format"] == "prompt + messages"
    assert (account["rows_in"], account["kept"], account["nll_only"]) == (60, 60, 10)
    assert "10 without rejected answer" in orpo.err
    recipe = run / "recipe.yaml"
    assert yaml.safe_load(recipe.read_text())["dataset"] == [str(plain), str(spoken)]
    mixed = ("--mix", 1, 1, "--output_dir", tmp_path / "mixed")
    account = accounts(orpo, recipe, *mixed)["train_dataset"]
    assert account["dropped"] == {"not_in_mix": 19}
    assert (account["rows_in"], account["kept"]) == (60, 41)
    data = accounts(orpo, recipe, "--held_out", "0.3", "--output_dir", tmp_path / "held")
    assert sum(account["rows_in"] for account in data.values()) == 60
    assert data["eval_dataset"]["format"] == "prompt + messages"
    for shares, says in (
        (["1"], "1 shares for 2 data sets"),
        (["1", "-1"], "must be positive"),
        (["1", "nan"], "must"),
    ):
        assert says in orpo.refuses("train", *given, "--mix", *shares)


def test_findings_are_said_and_strict_refuses(
    orpo: Orpo, tiny: Path, plain: Path, tmp_path: Path
) -> None:
    """A run is replaced only when its data are accepted."""
    twice, run = write_rows(tmp_path / "twice.jsonl", lines(plain) * 2), tmp_path / "run"
    given = ("train", "--model", tiny, "--dataset", twice, *SHORT, "--save_steps", 1)
    orpo.does(*given, "--output_dir", run)
    assert "stop: " in orpo.err
    assert "repeat earlier ones" in orpo.err
    before = sorted(path.name for path in run.iterdir())
    for folder in (run, tmp_path / "other"):
        said = orpo.refuses(*given, "--strict", "--output_dir", folder, "--overwrite")
        assert said.startswith("error: --strict: the audit says stop")
    assert sorted(path.name for path in run.iterdir()) == before
    assert not (tmp_path / "other" / "model.safetensors").exists()


def test_data_that_are_no_preferences_or_leave_it_open(
    orpo: Orpo, tiny: Path, tmp_path: Path
) -> None:
    alone = ({"prompt": f"p{i}", "chosen": "c"} for i in range(9))
    data = write_rows(tmp_path / "sft.jsonl", alone)
    said = orpo.refuses("train", "--model", tiny, "--dataset", data, *SHORT)
    assert "no row has a rejected answer" in said
    assert "'rejected'" in said
    row = {"prompt": "p", "instruction": "i", "chosen": "c", "rejected": "r"}
    both = write_rows(tmp_path / "both.jsonl", [row] * 40)
    given = ("--model", tiny, "--dataset", both, *SHORT, "--output_dir", tmp_path / "r")
    assert "prompt or alpaca" in orpo.refuses("train", *given)
    named = (*given, "--data_format", "alpaca")
    # It looks at them as told.
    assert "repeat earlier ones" in orpo.refuses("train", *named, "--strict")
    assert accounts(orpo, *named)["train_dataset"]["format"] == "alpaca"


def test_a_mix_goes_on_where_it_stopped(
    orpo: Orpo, tiny: Path, plain: Path, spoken: Path, tmp_path: Path
) -> None:
    options = ("train", "--model", tiny, "--dataset", plain, spoken, "--mix", 2, 1, *SHORT)
    options += ("--save_steps", 2, "--logging_steps", 1)
    options += ("--lr_scheduler_type", "constant", "--warmup_steps", 0, "--max_steps")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    orpo.does(*options, 4, "--output_dir", whole)
    orpo.does(*options, 2, "--output_dir", parts)
    orpo.does(*options, 4, "--output_dir", parts, "--resume")
    ours, theirs = (
        [line["loss"] for line in lines(run / "metrics.jsonl") if "loss" in line]
        for run in (parts, whole)
    )
    assert ours == theirs


# Which rows are held out, and that each row of a run is read and converted once


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Place of a row -> how often it was converted."""
    count, convert = Counter[str](), reading.to_pair
    monkeypatch.setattr(
        reading, "to_pair", lambda row, *how: count.update([row.where]) or convert(row, *how)
    )
    _opened.clear()
    return count


def test_train_reads_each_row_once_and_holds_out_what_fix_holds_out(
    orpo: Orpo, tiny: Path, pairs: Path, tmp_path: Path, converted: Counter[str]
) -> None:
    run, copy = tmp_path / "run", tmp_path / "clean.jsonl"
    train = ("train", "--model", tiny, "--dataset", pairs, "--output_dir", run, *SHARE, *SHORT)
    orpo.does(*train, "--samples", 1, "--sample_tokens", 4, "--data_cache", "off")
    assert _opened[str(pairs)] == 1
    assert converted == {f"{pairs}:{line}": 1 for line in range(1, 25)}
    orpo.does("data", "fix", pairs, copy, *SHARE)
    ledger = lines(tmp_path / "clean.ledger.jsonl")
    held = {line["row"] for line in ledger if line["action"] == "held_out"}
    assert {line["row"] + 1 for line in lines(run / "scores.jsonl")} == held
    assert 0 < len(held) < 24


@pytest.mark.parametrize("side", [(), ("--eval_dataset", "pairs.jsonl"), SHARE])
def test_a_dry_run_reads_each_row_once(
    side: Any, orpo: Orpo, tiny: Path, pairs: Path, converted: Counter[str], here: Path
) -> None:
    orpo.does("train", "--dry_run", "--model", tiny, "--dataset", pairs, *side)
    assert _opened[str(pairs)] == 1
    assert set(converted.values()) == {1}
    assert _opened["pairs.jsonl"] == (side[:1] == ("--eval_dataset",))
    assert len(converted) == 24 * (1 + _opened["pairs.jsonl"])


# Files in which most rows cannot be read end every command that reads pairs

GOOD = {"prompt": "p", "chosen": "c", "rejected": "r"}
STRANGE = {"text": "a", "label": 1}
WRONG = {"prompt": "p", "chosen": "c", "rejected": 5}
PICTURE = {**GOOD, "images": ["a.jpg"]}
NO_COLUMN = "rows cannot be read; the first: no column 'chosen'"


def commands(data: Path, tiny: Path) -> list[tuple[object, ...]]:
    run = ("--output_dir", data.parent / "run", "--max_steps", 1, "--on_bad_row", "drop")
    return [
        ("data", "audit", data),
        ("data", "show", data, "--model", tiny),
        ("data", "fix", data, data.parent / "fixed.jsonl"),
        ("train", "--model", tiny, "--dataset", data, *run),
    ]


@pytest.mark.parametrize(
    ("rows", "first", "said"),
    [
        ([STRANGE] * 3, 1, f"3 of 3 {NO_COLUMN}"),
        ([STRANGE] * 1000, 100, "none of 100 rows is in a known format"),
        ([GOOD, *[WRONG] * 2], 2, "2 of 3 rows cannot be read; the first: expected a string"),
        ([GOOD] * 100 + [WRONG] * 101, 101, "101 of 201 rows cannot be read; the first: expected"),
        ([PICTURE] * 2 + [GOOD], 1, "2 of 3 rows cannot be read; the first: holds pictures"),
    ],
)
def test_most_rows_cannot_be_read(
    orpo: Orpo, tiny: Path, tmp_path: Path, rows: list[dict[str, Any]], first: int, said: str
) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", rows)
    for command in commands(data, tiny):
        if command[1] == "show" and rows[0] == rows[2] == GOOD:
            continue  # which shows the first three rows and reads no further
        line = orpo.refuses(*command)
        assert said in line, command
        assert f"error: {data}:{first}" in line
    assert not (tmp_path / "fixed.jsonl").exists()
    assert not list(tmp_path.glob("run/**/*.safetensors"))


def test_half_of_them_is_not_most_and_each_file_counts_by_itself(
    orpo: Orpo, tiny: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", [{**GOOD, "prompt": "a"}, STRANGE, GOOD, WRONG])
    for command in commands(data, tiny):
        orpo.does(*command)
    bad = write_rows(tmp_path / "bad.jsonl", [STRANGE] * 3)
    given = ("--output_dir", tmp_path / "other", "--max_steps", 1, "--on_bad_row", "drop")
    said = orpo.refuses("train", "--model", tiny, "--dataset", data, bad, *given)
    assert f"{bad}:1: 3 of 3 {NO_COLUMN}" in said
    # what is asked for is shown all the same
    orpo.does("data", "show", bad, "--model", tiny, "--row", 2)
    assert "no column 'chosen'" in orpo.out
