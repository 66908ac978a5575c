"""Rows that are missing, doubled, moved or written otherwise: each counts for its own instruction.

Held against the official data: the verdicts on a published model, fitted anew on the same rows by
their index, and the published figures themselves.
"""

from __future__ import annotations

import csv
import gzip
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orpo.commands.main import main
from orpo.evaluate import length_controlled_win_rate

MODEL = "claude-instant-1.2"
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def official(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rows]:
    """(a folder with the official files, the verdicts on a model as the official tool has them)."""
    folder = tmp_path_factory.mktemp("set")
    for name in ("instruction_difficulty.csv", "df_gamed.csv", "leaderboard.csv"):
        shutil.copy(shared_data / "alpaca_eval" / name, folder / name)
    outputs = shared_data / "orpo_outputs" / "alpacaeval_mistral_orpo_beta.json"
    asked = [row["instruction"] for row in json.loads(outputs.read_text(encoding="utf-8"))]
    with gzip.open(shared_data / "alpaca_eval" / "annotations.csv.gz", "rt") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == MODEL]
    baseline = [
        {"instruction": text, "output": "b", "generator": "gpt4_1106_preview", "dataset": "all"}
        for text in asked
    ]
    (folder / "alpaca_eval_gpt4_baseline.json").write_text(json.dumps(baseline))
    verdicts = [
        {
            "instruction": asked[int(row["index"])],
            "len_output_1": int(row["len_output_1"]),
            "len_output_2": int(row["len_output_2"]),
            "preference": float(row["preference"]),
            "generator_1": "gpt4_1106_preview",
            "generator_2": MODEL,
            "annotator": "weighted_alpaca_eval_gpt4_turbo",
        }
        for row in rows
    ]
    return folder, verdicts


@pytest.fixture
def run(
    official: tuple[Path, Rows], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[dict[str, Any], str]]:
    def asked(rows: Rows, *, without: str = "") -> tuple[dict[str, Any], str]:
        folder = shutil.copytree(official[0], tmp_path / "set")
        if without:
            (folder / without).unlink()
        (tmp_path / "annotations.json").write_text(json.dumps(rows))
        arguments = ["--data", str(folder), "--annotations", str(tmp_path / "annotations.json")]
        assert (
            main(
                [
                    "evaluate",
                    "alpaca",
                    MODEL,
                    *arguments,
                    "--output_dir",
                    str(tmp_path / "o"),
                    "--json",
                ]
            )
            == 0
        )
        printed = capsys.readouterr()
        return json.loads(printed.out), " ".join(printed.err.split())

    return asked


def published(shared_data: Path) -> tuple[float, float]:
    with (shared_data / "alpaca_eval" / "leaderboard.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row[""] == MODEL)
    return float(row["win_rate"]), float(row["length_controlled_winrate"])


def fitted(shared_data: Path, rows: Rows, index: list[int]) -> tuple[float, float | None]:
    """(win rate, LC win rate) of these rows, whose indexes are known."""
    pandas = pytest.importorskip("pandas")
    folder = shared_data / "alpaca_eval"
    names = ("preference", "len_output_1", "len_output_2")
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in names}
    found = length_controlled_win_rate(
        {**columns, "index": index},
        difficulty=pandas.read_csv(folder / "instruction_difficulty.csv"),
        gamed=pandas.read_csv(folder / "df_gamed.csv"),
    )
    return found.win_rate, found.lc_win_rate


def test_order_doubles_and_white_space_change_no_figure(
    official: tuple[Path, Rows],
    run: Callable[..., tuple[dict[str, Any], str]],
    shared_data: Path,
) -> None:
    rows = [dict(row) for row in official[1]]
    for row in rows[::5]:
        row["instruction"] = f" {row['instruction'].replace(' ', '  ')}\r\n".replace("'", "\u2019")
    foreign = {**rows[0], "instruction": "Something that nobody was asked."}
    moved = [*rows, *rows[100:110], foreign]
    for number, row in enumerate(rows):
        row["index"] = (number + 1) % 805  # a table whose numbers were dealt after a row was lost
    random.Random(0).shuffle(moved)
    result, said = run(moved)
    win_rate, controlled = published(shared_data)
    assert result["win_rate"]["win_rate"] == pytest.approx(win_rate, abs=1e-6)
    assert result["win_rate"]["lc_win_rate"] == pytest.approx(controlled, abs=0.1)
    account = result["account"]
    left = {"further verdicts on the same instruction": 10, "rows of other instructions": 1}
    assert account["left_out"] == left
    assert account["rows"] == 816 == account["instructions"] + sum(left.values())
    assert (account["judged"], account["in_the_set"], account["without_a_row"]) == (805, 805, 0)
    assert result["contradicting"] == 805
    assert result["not_comparable"] == ""
    for why, count in left.items():
        assert f"{count} {why}" in said
    assert "not comparable" not in said


def test_rows_that_are_missing_do_not_shift_the_others(
    official: tuple[Path, Rows],
    run: Callable[..., tuple[dict[str, Any], str]],
    shared_data: Path,
) -> None:
    index = [n for n in range(805) if not 10 <= n < 60]
    rows = [official[1][n] for n in index]
    result, said = run(rows)
    win_rate, controlled = fitted(shared_data, rows, index)
    shifted = fitted(shared_data, rows, list(range(len(rows))))[1]
    assert result["win_rate"]["win_rate"] == pytest.approx(win_rate)
    assert result["win_rate"]["lc_win_rate"] == pytest.approx(controlled)
    assert abs((controlled or 0) - (shifted or 0)) > 0.01  # what counting by position gives
    account = result["account"]
    assert account["in_the_set"] == account["judged"] + account["without_a_row"] == 805
    assert "on 755 of 805 rows, not comparable with the leaderboard" in said
    assert "50 of 805 instructions have no row" in said


@pytest.mark.parametrize("named", [True, False])
def test_without_names_a_short_table_has_no_length_control(
    named: bool,
    official: tuple[Path, Rows],
    run: Callable[..., tuple[dict[str, Any], str]],
    shared_data: Path,
) -> None:
    """The evaluation set is not at hand, so that only an index or the full number tells."""
    rows = [{k: v for k, v in row.items() if k != "instruction"} for row in official[1]]
    if named:
        index = [n for n in range(805) if n % 20]
        rows = [{**rows[n], "index": n} for n in index]
        result, said = run(rows, without="alpaca_eval_gpt4_baseline.json")
        win_rate, controlled = fitted(shared_data, rows, index)
        assert result["win_rate"]["lc_win_rate"] == pytest.approx(controlled)
    else:
        rows = rows[50:]
        result, said = run(rows, without="alpaca_eval_gpt4_baseline.json")
        win_rate = 100 * sum(row["preference"] - 1 for row in rows) / len(rows)
        assert result["win_rate"]["lc_win_rate"] is None
        assert result["leaderboard"] is None
        assert "nothing in the file says which instruction a row is of" in said
    assert result["win_rate"]["win_rate"] == pytest.approx(win_rate)
    assert f"on {len(rows)} of 805 rows, not comparable with the leaderboard" in said


def test_all_rows_without_names_are_counted_as_the_official_tool_does(
    official: tuple[Path, Rows],
    run: Callable[..., tuple[dict[str, Any], str]],
    shared_data: Path,
) -> None:
    rows = [{k: v for k, v in row.items() if k != "instruction"} for row in official[1]]
    result, said = run(rows, without="alpaca_eval_gpt4_baseline.json")
    assert result["win_rate"]["lc_win_rate"] == pytest.approx(published(shared_data)[1], abs=0.1)
    assert result["by_position"] is True
    assert "in the order of the evaluation set" in said


@pytest.mark.parametrize(("count", "comparable"), [(4, True), (5, False)])
def test_rows_without_a_verdict_are_named(
    count: int,
    comparable: bool,
    official: tuple[Path, Rows],
    run: Callable[..., tuple[dict[str, Any], str]],
) -> None:
    """Published results leave out up to four."""
    rows = [{**row, "preference": None if n < count else 1.5} for n, row in enumerate(official[1])]
    result, said = run(rows)
    account = result["account"]
    assert (account["judged"], account["without_a_verdict"]) == (805 - count, count)
    assert (result["not_comparable"] == "") is comparable
    assert f"on {805 - count} of 805 rows" in said
    assert ("not comparable with the leaderboard" in said) is not comparable


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows[0].pop("index"), "no index, where other rows have one"),
        (lambda rows: rows[0].update(index="x"), "an index is no number"),
        (lambda rows: rows[0].update(index=805), "1 instructions have no difficulty"),
        (lambda rows: rows[0].update(generator_2="b"), f"holds no model '{MODEL}-x'"),
    ],
)
def test_what_cannot_be_placed_is_one_line(
    change: Callable[[Rows], Any],
    says: str,
    official: tuple[Path, Rows],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [{k: v for k, v in row.items() if k != "instruction"} for row in official[1]]
    rows = [{**row, "index": n} for n, row in enumerate(rows)]
    change(rows)
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    folder = shutil.copytree(official[0], tmp_path / "set")
    (folder / "alpaca_eval_gpt4_baseline.json").unlink()
    name = f"{MODEL}-x" if "holds no" in says else MODEL
    arguments = ["--annotations", str(tmp_path / "annotations.json"), "--data", str(folder)]
    out = ["--output_dir", str(tmp_path / "out")]
    assert main(["evaluate", "alpaca", name, *arguments, *out]) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert says in printed
    assert "Traceback" not in printed
