"""`orpo train --dry_run`: what it prints, its exit codes, and the flags that are only its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Orpo

HERE = ("--gpu", "cpu", "--memory_gib", "8", "--device_tflops", "0.1", "--use_cpu")


def test_tables_for_people_and_json_for_machines_and_no_ranks(
    orpo: Orpo, tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    where = ("--model", tiny, "--dataset", pairs, "--output_dir", tmp_path / "run")
    flags = ("--price_per_hour", "2", "--learning_rate", "1e-4", "--nproc", "3", "--json")
    assert orpo("train", "--dry-run", *where, *HERE, *flags) == 0
    found = json.loads(orpo.out)
    assert found["dry_run"] is True
    for said in (found["verdict"], "learning_rate", "nothing was written"):
        assert said in orpo.err
    assert (found["device"]["ranks"], found["device"]["wrapper"]) == (3, "ddp")
    assert not (tmp_path / "run").exists()


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
    orpo: Orpo, flags: list[str], says: str, tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    where = ("--model", tiny, "--dataset", pairs, "--output_dir", tmp_path / "run")
    assert orpo("train", *where, *flags) == 2
    last = orpo.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert says in last
