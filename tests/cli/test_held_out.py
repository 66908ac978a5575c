"""`--held_out`: a training and a mended copy hold out the same rows of the same data set."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Orpo


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_train_and_fix_hold_out_the_same_rows(
    orpo: Orpo, tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    run, copy = tmp_path / "run", tmp_path / "clean.jsonl"
    share = ("--held_out", 0.3, "--seed", 7)
    short = ("--max_steps", 1, "--samples", 0, "--max_length", 128)
    train = ("train", "--model", tiny, "--dataset", pairs, "--output_dir", run)
    assert orpo(*train, *share, *short) == 0, orpo.err
    assert orpo("data", "fix", pairs, copy, *share) == 0, orpo.err
    ledger = lines(tmp_path / "clean.ledger.jsonl")
    held = {line["row"] for line in ledger if line["action"] == "held_out"}
    assert {line["row"] + 1 for line in lines(run / "scores.jsonl")} == held
    assert 0 < len(held) < 24
