"""`orpo data audit`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orpo.audit.findings import Audit
from tests.cli.conftest import Orpo


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """Forty rows: ten there twice, two with another template's markup."""
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What is the name of number {n}?"}],
            "chosen": [{"role": "assistant", "content": f"It is called {n * 7}."}],
            "rejected": [{"role": "assistant", "content": f"Nobody knows what {n * 3} is."}],
        }
        for n in range(30)
    ]
    for row in rows[:2]:
        row["chosen"][0]["content"] += "</s>"
    path = tmp_path / "faulty.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in [*rows, *rows[5:15]]), encoding="utf-8")
    return path


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


def test_one_object_for_machines(orpo: Orpo, faulty: Path) -> None:
    assert orpo("data", "audit", faulty, "--json") == 0, orpo.err
    (line,) = orpo.out.splitlines()
    result = json.loads(line)
    assert result["verdict"] == "stop"
    assert Audit.from_dict(result).rows.rows_in == 40
    shares = {f["check"]: f["share"] for f in result["findings"]}
    assert shares["exact_duplicates"] == 0.25


def test_with_a_model_lengths_are_tokens(orpo: Orpo, tiny: Path, faulty: Path) -> None:
    options = ("--model", tiny, "--max-length", 64, "--no-near", "--json")
    assert orpo("data", "audit", faulty, *options) == 0, orpo.err
    result = json.loads(orpo.out)
    assert (result["unit"], result["max_length"]) == ("tokens", 64)
    assert result["budget"]["tokens_per_epoch"] > 0
    assert "near_duplicates" not in {f["check"] for f in result["findings"]}
    assert "an epoch: " in orpo.err


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


def test_the_settings_of_the_training_decide(orpo: Orpo, tiny: Path, faulty: Path) -> None:
    options = ("--model", tiny, "--max_length", 50, "--truncation", "drop", "--no_near", "--json")
    assert orpo("data", "audit", faulty, *options) == 0, orpo.err
    result = json.loads(orpo.out)
    limits = {limit["max_length"]: limit for limit in result["truncation"]}
    assert result["rows"]["dropped"]["too_long"] == limits[50]["dropped"] > limits[128]["dropped"]
    assert result["rows"]["rows_in"] == 40  # lengths are those before any limit


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


def test_leaked_prompts_stop(orpo: Orpo, pairs: Path, tmp_path: Path) -> None:
    held = tmp_path / "held.jsonl"
    held.write_text(pairs.read_text(encoding="utf-8").splitlines()[0], encoding="utf-8")
    assert orpo("data", "audit", pairs, "--eval_dataset", held, "--strict") == 2
    assert "Evaluation prompts in the training data" in orpo.err.splitlines()[-1]


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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("none.jsonl",), "none.jsonl"),
        (("PAIRS", "--measure"), "--measure"),
        (("PAIRS", "--model", "./none"), "./none"),
        (("PAIRS", "--max_length", "1"), "max_length"),
        (("PAIRS", "--eval_dataset", "none.jsonl"), "none.jsonl"),
        (("PAIRS", "--pair_rule", "worst"), "pair_rule"),
        ((), "DATASET"),
        (("",), "DATASET"),
    ],
)
def test_mistakes_give_exit_code_2(
    orpo: Orpo, pairs: Path, arguments: tuple[str, ...], said: str
) -> None:
    given = [str(pairs) if a == "PAIRS" else a for a in arguments]
    assert orpo("data", "audit", *given) == 2
    assert orpo.out == ""
    last = orpo.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
