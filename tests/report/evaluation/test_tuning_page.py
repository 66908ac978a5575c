"""The page of a tuning: words, tables and the figure from its JSON alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orpo.errors import DataError
from orpo.report import write_evaluation_page, write_report
from orpo.report.evaluation.tuning import build_page

CANARY = "<script>alert(1)</script> $x^2$ \x1b[31m"


def interval(value: float, reach: float = 0.01) -> dict[str, Any]:
    return {"value": value, "low": value - reach, "high": value + reach, "n": 90, "clusters": 80}


def trial(number: int, rate: float, alpha: float, **more: Any) -> dict[str, Any]:
    whole = {
        "state": "complete",
        "score": -0.2 - number / 100,
        "preference_accuracy": 0.9,
        "behind_the_best": interval(-number / 100),
        "near": number < 2,
    }
    values = {"number": number, "learning_rate": rate, "orpo_alpha": alpha, "start": number == 1}
    return {**values, "steps": 40, **whole, **more}


def evaluation(**more: Any) -> dict[str, Any]:
    """What a job would have written."""
    change = {**interval(0.02), "verdict": "better"}
    result = {
        "kind": "tuning",
        "finished": True,
        "model": CANARY,
        "dataset": CANARY,
        "command": f"orpo tune {CANARY}",
        "settings": {"training": {"max_length": 256, "note": CANARY}},
        "study": CANARY,
        "steps": 40,
        "full_steps": 250,
        "batch": 16,
        "seed": 1,
        "held_out": {"train": 4000, "choosing": 90, "test": 80},
        "space": {"learning_rate": [1e-5, 1e-3], "orpo_alpha": [0.01, 2.0]},
        "trials": [
            trial(0, 3e-4, 0.2),
            trial(1, 4e-4, 0.5),
            trial(2, 5e-5, 0.02),
            {**trial(3, 1e-3, 1.0), "state": "pruned", "behind_the_best": None, "steps": 20},
            {**trial(4, 9e-4, 0.1), "state": "failed", "score": None, "reason": CANARY},
        ],
        "account": {"complete": 3, "pruned": 1, "failed": 1, "running": 0},
        "recommended": {
            "values": {"learning_rate": 3e-4, "orpo_alpha": 0.2},
            "trial": 0,
            "near": [0, 1],
            "band": {"learning_rate": [3e-4, 4e-4], "orpo_alpha": [0.2, 0.5]},
            "band_words": "learning rate 0.0003 to 0.0004, lambda 0.2 to 0.5 (2 trials)",
            "edges": [["orpo_alpha", "highest"]],
            "verdict": "better",
            "why": "Learning rate 0.0003, lambda 0.2 is better.",
        },
        "comparison": {
            "measures": {
                name: {"start": interval(0.5), "best": interval(0.52), "change": change}
                for name in ("score", "preference_accuracy", "chosen_logps")
            }
        },
        "machine": {"device": "cpu", "threads": 2},
        "seconds": 400.0,
        **more,
    }
    plain: dict[str, Any] = json.loads(json.dumps(result))
    return plain


def test_verdict_first_then_how_sure_it_is(tmp_path: Path) -> None:
    page = build_page(evaluation(), tmp_path)
    assert page.verdict == "Learning rate 0.0003, lambda 0.2 is better."
    assert [one.value for one in page.headlines[:2]] == ["0.0003", "0.2"]
    assert page.headlines[0].interval == "not told apart: 0.0003 to 0.0004"
    assert page.headlines[2].value == "+0.0200"
    assert page.headlines[2].tone == "better"
    said = " ".join(page.remarks)
    for words in ("(2 trials)", "`--alphas`", "takes 250", "every trial has the same seed"):
        assert words in said
    facts = dict(page.facts)
    assert facts["Trials"] == "3 whole, 1 given up early, 1 broken"
    assert facts["Held-out pairs"] == "90 to choose by, 80 for the test alone"


def test_every_trial_stands_in_the_table(tmp_path: Path) -> None:
    test, every = build_page(evaluation(), tmp_path).tables
    assert [row[-1] for row in every.rows[:4]] == [
        "best",
        "start, not told apart",
        "",
        "given up at step 20",
    ]
    assert every.rows[4][-1].startswith("broken: ")
    assert [row[0] for row in test.rows] == [
        "Score",
        "Prefers the chosen answer",
        "l(chosen), per token",
    ]
    assert test.rows[1][3] == "+2.0 pp (+1.0 to +3.0)"


def test_the_page_is_inert_and_the_same_every_time(tmp_path: Path) -> None:
    path = write_evaluation_page(build_page(evaluation(), tmp_path), tmp_path)
    text = path.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "\x1b" not in text
    assert "https://" not in text
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation()), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text("learning_rate: 1\n", encoding="utf-8")  # as it has one
    assert write_report(tmp_path).read_text(encoding="utf-8") == text
    assert (tmp_path / "figures" / "trials.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "more",
    [
        {"trials": [], "comparison": None},
        {"trials": [{"number": 1}, 3], "space": [], "account": None, "held_out": 7},
        {"trials": [trial(0, 1e-3, 0.1, behind_the_best={"value": 0, "low": None, "high": None})]},
        {"recommended": {"why": 3, "edges": [3, ["a"]], "band": {"learning_rate": ["x"]}}},
    ],
)
def test_what_is_missing_is_left_out(more: dict[str, Any], tmp_path: Path) -> None:
    assert write_evaluation_page(build_page(evaluation(**more), tmp_path), tmp_path).is_file()


def test_nothing_found_yet_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no trial has come to its end"):
        build_page({"kind": "tuning"}, tmp_path)
