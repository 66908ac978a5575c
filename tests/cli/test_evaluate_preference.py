"""`orpo evaluate preference`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Orpo


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path


def test_a_table_for_people(orpo: Orpo, here: Path, tiny: Path, pairs: Path) -> None:
    command = ("evaluate", "preference", tiny, "--dataset", pairs, "--baseline", tiny)
    assert orpo(*command) == 0, orpo.err
    assert orpo.out == ""
    told = " ".join(orpo.err.split())
    assert "24 held-out pairs, 12 prompts" in told
    assert "prefers the chosen answer" in told
    assert "+0.0 (−" in told  # not "±0 for certain"
    assert "cannot be told" in told
    assert "whether it is better cannot be told at this size, +0.0 points" in told
    assert "page: orpo-eval-preference/report.html" in told
    assert (here / "orpo-eval-preference" / "figures" / "accuracy.svg").is_file()
    assert orpo(*command) == 0, orpo.err
    assert "24 pairs already scored" in " ".join(orpo.err.split())


def test_one_object_for_machines(orpo: Orpo, here: Path, tiny: Path, pairs: Path) -> None:
    options = ("--dataset", pairs, "--output-dir", "e", "--max-length", 64, "--json")
    assert orpo("evaluate", "preference", tiny, *options) == 0, orpo.err
    (line,) = orpo.out.splitlines()
    found = json.loads(line)
    assert found == json.loads((here / "e" / "evaluation.json").read_text())
    assert found["kind"] == "preference"
    assert found["settings"]["max_length"] == 64
    share = found["results"]["after"]["intervals"]["preference_accuracy"]
    assert 0 <= share["low"] <= share["value"] <= share["high"] <= 1
    assert (share["n"], share["clusters"]) == (24, 12)


@pytest.mark.parametrize(("arguments", "says"), [
    (("MODEL",), "--dataset: is needed"),
    (("MODEL", "--dataset", "gone.jsonl"), "gone.jsonl: no such file"),
    (("MODEL", "--dataset", "PAIRS", "--batch_size", "x"), "--batch_size"),
    (("no-such-model", "--dataset", "PAIRS"), "no-such-model: the model cannot be loaded"),
    (("MODEL", "--dataset", "PAIRS", "--baseline", "a", "--no_baseline"), "--no_baseline"),
    ((), "MODEL"),
])  # fmt: skip
def test_one_line_for_what_is_wrong(
    orpo: Orpo, here: Path, tiny: Path, pairs: Path, arguments: tuple[str, ...], says: str
) -> None:
    named = {"MODEL": str(tiny), "PAIRS": str(pairs)}
    assert orpo("evaluate", "preference", *(named.get(a, a) for a in arguments)) == 2
    errors = [line for line in orpo.err.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert says in errors[0]
    assert "Traceback" not in orpo.err


def test_names_from_data_do_not_steer_the_terminal(
    orpo: Orpo, here: Path, tiny: Path, pairs: Path
) -> None:
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    for i, row in enumerate(rows):
        row["source"] = ["\x1b[2Jclear", "[red]markup[/red]"][i % 2]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert orpo("evaluate", "preference", tiny, "--dataset", pairs) == 0, orpo.err
    assert "\x1b[2J" not in orpo.err
    assert "[red]markup[/red]" in orpo.err


def test_help_has_examples(orpo: Orpo, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        orpo("evaluate", "preference", "--help")
    assert ended.value.code == 0
    assert "orpo evaluate preference run --dataset" in capfd.readouterr().out
