"""`--held_out`: which rows are held out, and that each row of a run is read and converted once."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from orpo.data import reading
from tests.cli.conftest import Orpo

_opened = Counter[str]()
sys.addaudithook(lambda event, given: _opened.update([str(given[0])] if event == "open" else []))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


SHARE = ("--held_out", 0.3, "--seed", 7)
SHORT = ("--max_steps", 1, "--samples", 1, "--sample_tokens", 4, "--max_length", 128)


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
    assert orpo(*train, "--data_cache", "off") == 0, orpo.err
    assert _opened[str(pairs)] == 1
    assert converted == {f"{pairs}:{line}": 1 for line in range(1, 25)}
    assert orpo("data", "fix", pairs, copy, *SHARE) == 0, orpo.err
    ledger = lines(tmp_path / "clean.ledger.jsonl")
    held = {line["row"] for line in ledger if line["action"] == "held_out"}
    assert {line["row"] + 1 for line in lines(run / "scores.jsonl")} == held
    assert 0 < len(held) < 24


@pytest.mark.parametrize("side", [(), ("--eval_dataset", "pairs.jsonl"), SHARE])
def test_a_dry_run_reads_each_row_once(
    side: tuple[str, ...],
    orpo: Orpo,
    tiny: Path,
    pairs: Path,
    converted: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(pairs.parent)
    train = ("train", "--dry_run", "--model", tiny, "--dataset", pairs, *side)
    assert orpo(*train) == 0, orpo.err
    assert _opened[str(pairs)] == 1
    assert set(converted.values()) == {1}
    assert _opened["pairs.jsonl"] == (side[:1] == ("--eval_dataset",))
    assert len(converted) == 24 * (1 + _opened["pairs.jsonl"])
