"""`orpo data fix` as it is typed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.audit.faults import distinct_rows, like, reworded
from tests.cli.conftest import Orpo

Values = dict[str, Any]

EXACT = {"unreadable_rows", "empty_texts", "identical_answers", "exact_duplicates"}
EXACT |= {"contradictions", "leakage"}
"""The audit's checks that leave no room for judgement."""


def read(path: Path) -> list[Values]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_copy_a_ledger_and_an_account(orpo: Orpo, pairs: Path, tmp_path: Path) -> None:
    rows = read(pairs)
    rows[3]["rejected"] = rows[3]["chosen"]
    text = "".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]) + "{broken\n"
    pairs.write_text(text, encoding="utf-8")
    clean = tmp_path / "new" / "clean.jsonl"
    assert orpo("data", "fix", pairs, clean, "--json") == 0, orpo.err
    result = json.loads(orpo.out)
    assert len(orpo.out.splitlines()) == 1
    assert result["dropped"] == {"identical_answers": 1, "exact_duplicate": 1, "unreadable": 1}
    assert result["rows_in"] == 26 == result["written"] + 3
    assert result["output"] == str(clean)
    assert "26 rows = 23 written + 3 dropped" in orpo.err
    assert f"dropped 1 unreadable (first: {pairs}:26)" in orpo.err
    assert read(clean) == [row for n, row in enumerate(rows) if n != 3]
    ledger = read(Path(result["ledger"]))
    assert [change["reason"] for change in ledger] == list(result["dropped"])
    assert pairs.read_text(encoding="utf-8") == text


def test_rows_longer_than_the_model_may_see_go(
    orpo: Orpo, tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    rows = read(pairs)
    rows[5]["chosen"][0]["content"] = "far too long " * 9
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    limits = ("--model", tiny, "--max-length", 60)
    assert orpo("data", "fix", pairs, tmp_path / "clean.jsonl", *limits, "--json") == 0, orpo.err
    assert json.loads(orpo.out)["dropped"] == {"too_long": 1}
    (change,) = read(tmp_path / "clean.ledger.jsonl")
    assert change["where"] == f"{pairs}:6"
    assert "chosen 118" in change["detail"]
    kept = ("--drop", "identical_answers", "--overwrite")
    assert orpo("data", "fix", pairs, tmp_path / "clean.jsonl", *limits, *kept, "--json") == 0
    assert json.loads(orpo.out)["dropped"] == {}


def test_train_and_held_out_files_make_a_training(
    orpo: Orpo, tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    split = ("--held_out", 0.3, "--held-out-output", test, "--seed", 1)
    assert orpo("data", "fix", pairs, train, *split, "--json") == 0, orpo.err
    result = json.loads(orpo.out)
    assert result["written"] + result["held_out"] == 24
    prompts = [{json.dumps(row["prompt"]) for row in read(path)} for path in (train, test)]
    assert not prompts[0] & prompts[1]
    short = ("--max_steps", 1, "--samples", 0, "--output_dir", tmp_path / "run")
    data = ("--dataset", train, "--eval_dataset", test)
    assert orpo("train", "--model", tiny, *data, *short) == 0, orpo.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fix",), "DATASET"),
        (("fix", "pairs.jsonl"), "OUT"),
        (("fix", "none.jsonl", "x.jsonl"), "none.jsonl"),
        (("fix", "pairs.jsonl", "pairs.jsonl"), "would overwrite the data set"),
        (("fix", "pairs.jsonl", "pairs.jsonl", "--overwrite"), "never changed in place"),
        (("fix", "pairs.jsonl", "link.jsonl", "--overwrite"), "never changed in place"),
        (("fix", "pairs.jsonl", "x.csv"), "x.csv"),
        (("fix", "pairs.jsonl", "x.jsonl", "--drop", "empty,typo"), "typo"),
        (("fix", "pairs.jsonl", "x.jsonl", "--deduplicate", "fuzzy"), "fuzzy"),
        (("fix", "pairs.jsonl", "x.jsonl", "--max_length", "9"), "--model"),
        (("fix", "pairs.jsonl", "x.jsonl", "--balance", "colour"), "colour"),
        (("fix", "pairs.jsonl", "x.jsonl", "--held_out", "7"), "--held_out"),
        (("fix", "pairs.jsonl", "x.jsonl", "--held_out", "1e-9"), "one side empty"),
        (("fix", "pairs.jsonl", "x.jsonl", "--held_out_output", "y.jsonl"), "--held_out_output"),
        (("fix", "pairs.jsonl", "x.jsonl", "--balance_ratio", "0.5"), "--balance_ratio"),
        (("fix", "pairs.jsonl", "x.jsonl", "--min_score_margin", "nan"), "--min_score_margin"),
        (("fix", "pairs.jsonl", "/proc/x.jsonl"), "cannot be written"),
        (("fix", "pairs.jsonl", "other.jsonl/x.jsonl"), "cannot be written"),
        (("fix", "pairs.jsonl", "other.jsonl"), "is there already"),
        (("fix", "pairs.jsonl", "x.jsonl", "--ledger", "other.jsonl"), "other.jsonl"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    orpo: Orpo,
    pairs: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(pairs.parent)
    Path("link.jsonl").symlink_to(pairs)
    Path("other.jsonl").write_text("mine", encoding="utf-8")
    before = pairs.read_bytes()
    assert orpo("data", *arguments) == 2
    assert orpo.out == ""
    (line,) = orpo.err.strip().splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert sorted(p.name for p in pairs.parent.iterdir()) == [
        "link.jsonl",
        "other.jsonl",
        "pairs.jsonl",
    ]
    assert pairs.read_bytes() == before
    assert Path("other.jsonl").read_text(encoding="utf-8") == "mine"


def test_both_sides_are_balanced_by_length(orpo: Orpo, pairs: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"p{n}", **dict(zip(("chosen", "rejected"), texts, strict=True))}
        for n in range(60)
        for texts in [("long", "no"), ("no", "long"), ("longer", "no")][n % 3 : n % 3 + 1]
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = ("--held_out", 0.4, "--balance", "length", "--json")
    assert orpo("data", "fix", pairs, tmp_path / "train.jsonl", *options) == 0, orpo.err
    result = json.loads(orpo.out)
    assert set(result["balance"]) == {"output", "held_out_output"}
    for name in ("output", "held_out_output"):
        after = result["balance"][name]["after"]
        assert after["longer_chosen"] == 0.5
        assert after["pairs"] == result["written" if name == "output" else "held_out"]
    assert "balanced by length: the longer answer was the chosen one in" in orpo.err
    assert "balanced by length, held out: the longer answer was" in orpo.err


def test_the_audit_finds_nothing_exact_in_the_copy(
    orpo: Orpo, tiny: Path, shared_data: Path, tmp_path: Path
) -> None:
    rows = json.loads((shared_data / "preferences" / "alpaca_style.json").read_text("utf-8"))[:300]
    for n in range(0, 60, 6):
        rows[n]["rejected"] = rows[n]["chosen"] + " "
        rows[n + 1]["chosen"] = " "
        rows.append(rows[n + 2])
        swapped = {"chosen": rows[n + 3]["rejected"], "rejected": rows[n + 3]["chosen"]}
        rows.append({**rows[n + 3], **swapped})
    data, train = tmp_path / "pairs.jsonl", tmp_path / "train.jsonl"
    test = tmp_path / "test.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n", encoding="utf-8")
    limits = ("--model", tiny, "--max_length", 2000)

    def found(train: Path, test: Path) -> set[str]:
        flags = ("--eval_dataset", test, "--no_near", "--json")
        assert orpo("data", "audit", train, *flags, *limits) == 0, orpo.err
        findings = json.loads(orpo.out)["findings"]
        assert {finding["check"] for finding in findings} >= EXACT
        return {f["check"] for f in findings if f["check"] in EXACT and f["count"]}

    assert found(data, data) == EXACT
    split = ("--held_out", 0.2, "--held_out_output", test)
    assert orpo("data", "fix", data, train, *split, *limits) == 0, orpo.err
    assert found(train, test) == set()


def test_what_the_audit_counts_is_what_fix_drops(orpo: Orpo, tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasketch")
    rng, rows = random.Random(1), distinct_rows(120)
    for n in range(3):
        rows[n]["chosen"][0]["content"] = " "
    for n in range(3, 8):
        rows[n]["rejected"][0]["content"] = rows[n]["chosen"][0]["content"] + "\n"
    for n in range(8, 12):
        rows[n] |= {"score_chosen": 1, "score_rejected": 2}
    rows[12] |= {"score_chosen": 2, "score_rejected": 2}
    for n in range(13, 15):
        rows[n]["chosen"][0]["content"] *= 40
    rows += [rows[n] for n in range(20, 27)]
    rows += [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows[30:36]]
    rows += [like(row, lambda text: reworded(text, rng, 8)) for row in rows[40:49]]
    rows += [{**rows[50], "chosen": 7}] * 2
    data = tmp_path / "pairs.jsonl"
    text = "".join(json.dumps(row) + "\n" for row in rows) + "{broken\n"
    data.write_text(text, encoding="utf-8")
    limits = ("--model", tiny, "--max_length", 2000, "--json")
    assert orpo("data", "audit", data, *limits, "--truncation", "drop") == 0, orpo.err
    found = {one["check"]: one["count"] for one in json.loads(orpo.out)["findings"]}
    mend = ("--deduplicate", "near", "--min_score_margin", 0)
    assert orpo("data", "fix", data, tmp_path / "clean.jsonl", *limits, *mend) == 0, orpo.err
    dropped = json.loads(orpo.out)["dropped"]
    assert found["unreadable_rows"] == dropped["malformed"] + dropped["unreadable"] == 3
    assert found["empty_texts"] == dropped["empty_chosen"] == 3
    assert found["identical_answers"] == dropped["identical_answers"] == 5
    assert found["scores"] == dropped["low_margin"] == 4
    assert found["truncation"] == dropped["too_long"] == 2
    assert found["exact_duplicates"] == dropped["exact_duplicate"] == 7
    assert 2 * found["contradictions"] == dropped["contradiction"] == 12  # both sides go
    assert found["near_duplicates"] == dropped["near_duplicate"] >= 8
    assert set(dropped) == {
        *("malformed", "unreadable", "empty_chosen", "identical_answers", "low_margin"),
        *("too_long", "exact_duplicate", "contradiction", "near_duplicate"),
    }


def test_near_duplicates_need_a_library(
    orpo: Orpo, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orpo.audit.repair.minhash_available", lambda: False)
    assert orpo("data", "fix", pairs, tmp_path / "x.jsonl", "--deduplicate", "near") == 2
    assert "datasketch" in orpo.err
