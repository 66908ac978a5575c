"""Files in which most rows cannot be read end every command that reads pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Orpo

GOOD = {"prompt": "p", "chosen": "c", "rejected": "r"}
STRANGE = {"text": "a", "label": 1}
WRONG = {"prompt": "p", "chosen": "c", "rejected": 5}
PICTURE = {**GOOD, "images": ["a.jpg"]}
NO_COLUMN = "rows cannot be read; the first: no column 'chosen'"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


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
def test_it_is_said_in_one_line(
    orpo: Orpo, tiny: Path, tmp_path: Path, rows: list[dict[str, Any]], first: int, said: str
) -> None:
    data = write(tmp_path / "pairs.jsonl", rows)
    for command in commands(data, tiny):
        if command[1] == "show" and rows[0] == rows[2] == GOOD:
            continue  # which shows the first three rows and reads no further
        assert orpo(*command) == 2, (command, orpo.out)
        assert orpo.out == ""
        line = orpo.err.strip().splitlines()[-1]
        assert said in line, command
        assert f"error: {data}:{first}" in line
    assert not (tmp_path / "fixed.jsonl").exists()
    assert not list(tmp_path.glob("run/**/*.safetensors"))


def test_half_of_them_is_not_most_and_each_file_counts_by_itself(
    orpo: Orpo, tiny: Path, tmp_path: Path
) -> None:
    data = write(tmp_path / "pairs.jsonl", [{**GOOD, "prompt": "a"}, STRANGE, GOOD, WRONG])
    for command in commands(data, tiny):
        assert orpo(*command) == 0, (command, orpo.err)
    bad = write(tmp_path / "bad.jsonl", [STRANGE] * 3)
    given = ("--output_dir", tmp_path / "other", "--max_steps", 1, "--on_bad_row", "drop")
    assert orpo("train", "--model", tiny, "--dataset", data, bad, *given) == 2
    assert f"{bad}:1: 3 of 3 {NO_COLUMN}" in orpo.err
    # what is asked for is shown all the same
    assert orpo("data", "show", bad, "--model", tiny, "--row", 2) == 0
    assert "no column 'chosen'" in orpo.out
