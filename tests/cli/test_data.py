"""`orpo data audit|fix`, as they are typed; and what is wrong input to any action."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from orpo.audit.findings import Audit
from tests.audit.faults import distinct_rows, like, pair, read, reworded, write
from tests.cli.conftest import Orpo

Values = dict[str, Any]

EXACT = {"unreadable_rows", "empty_texts", "identical_answers", "exact_duplicates"}
EXACT |= {"contradictions", "leakage", "scores", "truncation"}
"""The audit's checks that leave no room for judgement, and those that fix was asked for."""


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """Forty rows: ten there twice, two with another template's markup."""
    rows = [
        pair(f"What is the name of number {n}?", f"It is called {n * 7}.", f"Not {n * 3} is it.")
        for n in range(30)
    ]
    for row in rows[:2]:
        row["chosen"][0]["content"] += "</s>"
    return write(tmp_path / "faulty.jsonl", [*rows, *rows[5:15]])


def test_a_table_for_people(orpo: Orpo, faulty: Path) -> None:
    assert orpo("data", "audit", faulty) == 0, orpo.err
    assert orpo.out == ""
    told = " ".join(orpo.err.split())
    assert "(prompt): 40 rows, 40 kept" in told
    assert "stop Exact duplicates 10 40 25.0 %" in told
    assert "Template problems 2 40 5.0 %" in told
    assert "ok Identical answers 0 40 0.0 %" in told
    assert "10 rows (25.0 %) repeat earlier ones word for word" in told
    assert "faulty.jsonl:31 and faulty.jsonl:6: What is the name" in told
    assert "not checked: leakage" in told
    assert told.endswith("verdict: stop")


def test_one_object_for_machines_in_tokens_by_the_settings_of_the_training(
    orpo: Orpo, tiny: Path, faulty: Path
) -> None:
    options = ("--model", tiny, "--max-length", 50, "--truncation", "drop", "--no-near", "--json")
    assert orpo("data", "audit", faulty, *options) == 0, orpo.err
    (line,) = orpo.out.splitlines()
    result = json.loads(line)
    assert (result["verdict"], result["unit"], result["max_length"]) == ("stop", "tokens", 50)
    assert Audit.from_dict(result).rows.rows_in == 40
    shares = {f["check"]: f["share"] for f in result["findings"]}
    assert shares["exact_duplicates"] == 0.25
    assert "near_duplicates" not in shares
    assert result["budget"]["tokens_per_epoch"] > 0
    assert "an epoch: " in orpo.err
    limits = {limit["max_length"]: limit for limit in result["truncation"]}
    assert result["rows"]["dropped"]["too_long"] == limits[50]["dropped"] > limits[128]["dropped"]


def test_steps_are_measured_and_nothing_is_left_behind(
    orpo: Orpo, tiny: Path, faulty: Path
) -> None:
    before = {path.name for path in tiny.iterdir()}
    options = ("--model", tiny, "--max_length", 128, "--no_near", "--measure", "--json")
    assert orpo("data", "audit", faulty, *options) == 0, orpo.err
    result = json.loads(orpo.out)
    budget = result["budget"]
    assert budget["tokens_per_second"] > 0
    seconds = budget["tokens_per_epoch"] / budget["tokens_per_second"]
    assert budget["seconds_per_epoch"] == pytest.approx(seconds)
    assert budget["peak_bytes"] > 0
    (note,) = [note for note in result["notes"] if note.startswith("time: ")]
    assert "5 training steps of 4 pairs" in note  # 24 pairs are drawn, the first step warms up
    assert {path.name for path in tiny.iterdir()} == before
    assert [path.name for path in faulty.parent.iterdir()] == ["faulty.jsonl"]
    few = faulty.parent / "few.jsonl"
    few.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 3, encoding="utf-8")
    assert orpo("data", "audit", few, "--model", tiny, "--measure") == 2
    assert "too few to measure" in orpo.err


def test_strict_turns_a_stop_into_exit_code_2(orpo: Orpo, faulty: Path, pairs: Path) -> None:
    assert orpo("data", "audit", faulty, "--strict") == 2
    last = orpo.err.splitlines()[-1]
    assert last.startswith(f"error: {faulty}: the verdict is stop (Exact duplicates")
    assert "Traceback" not in orpo.err
    assert orpo("data", "audit", faulty, "--strict", "--json") == 2
    assert json.loads(orpo.out)["verdict"] == "stop"
    clean = pairs.read_text(encoding="utf-8").splitlines()[::2]
    pairs.write_text("\n".join(clean), encoding="utf-8")
    assert orpo("data", "audit", pairs, "--strict", "--no_near") == 0, orpo.err


def test_a_page_is_written(orpo: Orpo, faulty: Path, tmp_path: Path) -> None:
    page = tmp_path / "audit.html"
    assert orpo("data", "audit", faulty, "--html", page) == 0, orpo.err
    assert "Exact duplicates" in page.read_text(encoding="utf-8")
    assert "page: " in orpo.err


def test_markup_in_the_data_is_shown_as_it_is(orpo: Orpo, tmp_path: Path) -> None:
    row = {"prompt": "[bold]q[/bold]", "chosen": "[red]a[/]", "rejected": "[red]a[/]"}
    path = tmp_path / "[b]markup.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    assert orpo("data", "audit", path) == 0, orpo.err
    assert "[red]a[/]" in orpo.err
    assert "[b]markup.jsonl" in orpo.err


def test_a_copy_a_ledger_and_an_account(orpo: Orpo, pairs: Path, tmp_path: Path) -> None:
    rows = read(pairs)
    rows[3]["rejected"] = rows[3]["chosen"]
    text = write(pairs, [*rows, rows[0], "{broken"]).read_text(encoding="utf-8")
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
    write(pairs, rows)
    limits = ("--model", tiny, "--max-length", 60)
    assert orpo("data", "fix", pairs, tmp_path / "clean.jsonl", *limits, "--json") == 0, orpo.err
    assert json.loads(orpo.out)["dropped"] == {"too_long": 1}
    (change,) = read(tmp_path / "clean.ledger.jsonl")
    assert change["where"] == f"{pairs}:6"
    assert "chosen 118" in change["detail"]
    kept = ("--drop", "identical_answers", "--overwrite")
    assert orpo("data", "fix", pairs, tmp_path / "clean.jsonl", *limits, *kept, "--json") == 0
    assert json.loads(orpo.out)["dropped"] == {}


def test_both_sides_are_balanced_by_length(orpo: Orpo, pairs: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"p{n}", **dict(zip(("chosen", "rejected"), texts, strict=True))}
        for n in range(60)
        for texts in [("long", "no"), ("no", "long"), ("longer", "no")][n % 3 : n % 3 + 1]
    ]
    write(pairs, rows)
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


def test_what_the_audit_counts_is_what_fix_drops_and_then_there_is_none(
    orpo: Orpo, tiny: Path, tmp_path: Path
) -> None:
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
    data = write(tmp_path / "pairs.jsonl", [*rows, "{broken"])
    clean, test = tmp_path / "clean.jsonl", tmp_path / "test.jsonl"
    limits = ("--model", tiny, "--max_length", 2000, "--json")

    def audit(data: Path, held: Path) -> dict[str, int]:
        flags = ("--eval_dataset", held, "--truncation", "drop")
        assert orpo("data", "audit", data, *limits, *flags) == 0, orpo.err
        return {one["check"]: one["count"] for one in json.loads(orpo.out)["findings"]}

    found = audit(data, data)
    mend = ("--deduplicate", "near", "--min_score_margin", 0, "--held_out", 0.2)
    split = ("--held_out_output", test)
    assert orpo("data", "fix", data, clean, *limits, *mend, *split) == 0, orpo.err
    dropped = json.loads(orpo.out)["dropped"]
    left = audit(clean, test)
    assert all(found[check] for check in EXACT)
    assert {check for check in EXACT if left.get(check)} == set()
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
    monkeypatch.setattr("orpo.errors.find_spec", lambda _: None)
    assert orpo("data", "fix", pairs, tmp_path / "x.jsonl", "--deduplicate", "near") == 2
    assert "datasketch" in orpo.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("audit none.jsonl", "none.jsonl"),
        ("audit pairs.jsonl --measure", "--measure"),
        ("audit pairs.jsonl --model ./none", "./none"),
        ("audit pairs.jsonl --max_length 1", "max_length"),
        ("audit pairs.jsonl --eval_dataset none.jsonl", "none.jsonl"),
        ("audit pairs.jsonl --pair_rule worst", "pair_rule"),
        ("audit", "DATASET"),
        ("audit ", "DATASET"),
        ("fix", "DATASET"),
        ("fix pairs.jsonl", "OUT"),
        ("fix none.jsonl x.jsonl", "none.jsonl"),
        ("fix pairs.jsonl pairs.jsonl", "would overwrite the data set"),
        ("fix pairs.jsonl pairs.jsonl --overwrite", "never changed in place"),
        ("fix pairs.jsonl link.jsonl --overwrite", "never changed in place"),
        ("fix link.jsonl pairs.jsonl --overwrite", "never changed in place"),
        ("fix pairs.jsonl hard.jsonl --overwrite", "never changed in place"),
        ("fix pairs.jsonl x.jsonl --ledger link.jsonl --overwrite", "never changed in place"),
        (
            "fix pairs.jsonl x.jsonl --held_out 0.5 --held_out_output hard.jsonl --overwrite",
            "never changed in place",
        ),
        ("fix pairs.jsonl x.csv", "x.csv"),
        ("fix pairs.jsonl x.jsonl --drop empty,typo", "typo"),
        ("fix pairs.jsonl x.jsonl --deduplicate fuzzy", "fuzzy"),
        ("fix pairs.jsonl x.jsonl --max_length 9", "--model"),
        ("fix pairs.jsonl x.jsonl --balance colour", "colour"),
        ("fix pairs.jsonl x.jsonl --held_out 7", "--held_out"),
        ("fix pairs.jsonl x.jsonl --held_out 1e-9", "one side empty"),
        ("fix pairs.jsonl x.jsonl --held_out_output y.jsonl", "--held_out_output"),
        ("fix pairs.jsonl x.jsonl --balance_ratio 0.5", "--balance_ratio"),
        ("fix pairs.jsonl x.jsonl --min_score_margin nan", "--min_score_margin"),
        ("fix pairs.jsonl /proc/x.jsonl", "cannot be written"),
        ("fix pairs.jsonl other.jsonl/x.jsonl", "cannot be written"),
        ("fix pairs.jsonl other.jsonl", "is there already"),
        ("fix pairs.jsonl x.jsonl --ledger other.jsonl", "other.jsonl"),
        ("fix pairs.jsonl x.jsonl --ledger x.jsonl", "is the copy's file already"),
        ("fix pairs.jsonl x.jsonl --ledger broken", "is a folder"),
        ("show", "DATASET"),
        ("show pairs.jsonl", "--model"),
        ("show none.jsonl --model TINY", "none.jsonl"),
        ("show pairs.jsonl --model ./none", "./none"),
        ("show pairs.jsonl --model broken", "tokenizer"),
        ("show pairs.jsonl --model TINY --row 99", "no row 99"),
        ("show pairs.jsonl --model TINY -n 0", "-n"),
        ("show pairs.jsonl --model TINY -n two", "two"),
        ("show pairs.jsonl --model TINY --max_length 1", "max_length"),
        ("show pairs.jsonl --model TINY --truncation half", "half"),
        ("show pairs.jsonl --frob", "orpo data show: there is no option --frob"),
        ("frob", "'frob' is none of audit, show, fix"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    orpo: Orpo, tiny: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch, words: str, said: str
) -> None:
    monkeypatch.chdir(pairs.parent)
    Path("broken").mkdir()
    Path("broken", "tokenizer_config.json").write_text("{", encoding="utf-8")
    Path("link.jsonl").symlink_to(pairs)
    Path("hard.jsonl").hardlink_to(pairs)
    Path("other.jsonl").write_text("mine", encoding="utf-8")
    before = pairs.read_bytes()
    assert orpo("data", *words.replace("TINY", str(tiny)).split(" ")) == 2
    assert orpo.out == ""
    (line,) = (line for line in orpo.err.splitlines() if line.startswith("error: "))
    assert orpo.err.endswith(f"{line}\n")
    assert said in line
    left = {"link.jsonl", "hard.jsonl", "other.jsonl", "pairs.jsonl", "broken"}
    assert {path.name for path in pairs.parent.iterdir()} == left
    assert pairs.read_bytes() == before
    assert Path("other.jsonl").read_text(encoding="utf-8") == "mine"
