"""`orpo train --dry_run`: what it prints, its exit codes, and the flags that are only its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orpo.commands.main import main

HERE = ["--gpu", "cpu", "--memory_gib", "8", "--device_tflops", "0.1", "--use_cpu"]


def train(tiny: Path, pairs: Path, folder: Path, *flags: str) -> int:
    given = ["--model", str(tiny), "--dataset", str(pairs), "--output_dir", str(folder / "run")]
    return main(["train", *given, *flags])


def test_tables_for_people_and_json_for_machines(
    tiny: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--dry-run", *HERE, "--price_per_hour", "2", "--learning_rate", "1e-4", "--json")
    assert train(tiny, pairs, tmp_path, *flags) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["dry_run"] is True
    assert found["verdict"] in printed.err
    assert "learning_rate" in printed.err
    assert "nothing was written" in printed.err
    assert not (tmp_path / "run").exists()


def test_ranks_are_not_started(
    tiny: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tiny, pairs, tmp_path, "--dry_run", *HERE, "--nproc", "3", "--json") == 0
    device = json.loads(capsys.readouterr().out)["device"]
    assert (device["ranks"], device["wrapper"]) == (3, "ddp")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--gpu", "h100"], "--gpu: is only used by a dry run. Add --dry_run."),
        (["--dry_run", "--gpu", "h1000"], "--gpu: 'h1000' is none of cpu, "),
        (["--dry_run", "--resume"], "--resume: a dry run begins nothing"),
        (["--dry_run", "--pair_tokens", "1", "2"], "expected 3 arguments. See `orpo"),
        (["--dry_run", "--memory_gib", "0.01", "--strict"], "--strict: "),
        (["--quantize", "8bit"], "quantize: '8bit' is none of none, 4bit"),
    ],
)
def test_mistakes_are_one_line(
    flags: list[str],
    says: str,
    tiny: Path,
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(tiny, pairs, tmp_path, *flags) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert says in last
