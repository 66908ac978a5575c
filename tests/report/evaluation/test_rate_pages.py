"""The pages of AlpacaEval and of win rates: numbers, hostile texts, broken files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orpo.report import write_report
from orpo.report.evaluation import Page as Evidence
from orpo.report.evaluation import alpaca, win_rate
from tests.report.pages import HOSTILE, Page

INTERVAL = {"value": 61.0, "low": 53.5, "high": 68.1, "n": 150, "clusters": 150, "level": 0.95}
RATE = {
    "win_rate": 61.0, "standard_error": 3.7, "n": 150, "n_wins": 88, "n_losses": 55, "n_draws": 7,
    "discrete_win_rate": 61.0, "unjudged": 2, "interval": INTERVAL,
    "lc_win_rate": 57.3, "lc_standard_error": 0.4,
    "lc_interval": {**INTERVAL, "value": 57.3, "low": 49.0, "high": 65.2},
    "coefficients": {"np.tanh(std_delta_len)": -0.9, "not_gamed_baseline.astype(float)": 0.3},
    "strength": 100.0, "note": "",
}  # fmt: skip


def evaluation(kind: str, text: str = "text") -> dict[str, Any]:
    """What a job writes, with `text` wherever a model, a data set or a judge could put one."""
    share = {"value": 0.52, "low": 0.4, "high": 0.6, "n": 300, "clusters": 150, "level": 0.95}
    return {
        "kind": kind,
        "model": text,
        "baseline": text,
        "settings": {"model": text, "judge": text},
        "versions": {"python": "3.11"},
        "account": {"instructions": 152, "prompts": 152, "left_out": {text: 3}},
        "win_rate": RATE,
        "suspicious": {
            "pairs": 2, "baseline": 1, "model": 1,
            "rows": [
                {"index": n, "side": side, "flags": [text], "preference": 1.0, "excerpt": text}
                for n, side in ((text, "baseline"), (7, "model"))
            ],
            "without": {**RATE, "win_rate": 66.0, "lc_win_rate": 60.0},
        },
        "not_comparable": text,
        "annotator": text,
        "judged_by": "annotations",
        "leaderboard": {
            "rank": 12,
            "published": 222,
            "neighbours": [
                {"name": f"{text} {n}", "lc_win_rate": 60.0 - n, "win_rate": 50.0, "avg_length": 99}
                for n in range(6)
            ],
        },
        "mean_length": {"baseline": 800.0, "model": 1000.0},
        "by_length": [
            {"low": n, "high": n, "mean": 9.0 * n, "n": 30, "win_rate": INTERVAL} for n in range(5)
        ],
        "by_category": {name: {"n": 9, "win_rate": INTERVAL} for name in (text, "koala")},
        "flags": {"baseline": {}, "model": {text: 2}},
        "examples": [
            {
                "kind": kind, "prompt": text, "baseline": text, "model": text, "preference": 1.0,
                "lengths": [3, 1], "flags_baseline": [], "flags_model": [text],
                "reasons": [text, text],
            }
            for kind in ("win", "loss", "flagged")
        ],
        "judge": {"model": text, "base_url": text, "reported": [text]},
        "trust": {"trusted": True, "kinds": {text: {"lost": 2, "rewarded": 1, "tied": 0}}},
        "bias": dict.fromkeys(("consistency", "first_position_wins", "longer_wins"), share),
        "verdicts": {"verdicts": 300, "pairs": 150, "unparsed_verdicts": 4, "orders_differ": 8},
        "cost": {"requests": 300, "prompt_tokens": 5, "completion_tokens": 6, "cost": 1.5},
        "remarks": [text],
        "missing": {"leaderboard.csv": text},
    }  # fmt: skip


def written(folder: Path, content: dict[str, Any]) -> str:
    (folder / "evaluation.json").write_text(json.dumps(content))
    return write_report(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["alpaca", "win-rate"])
def test_the_numbers_are_on_the_page(kind: str, tmp_path: Path) -> None:
    page = Page(written(tmp_path, evaluation(kind)))
    for shown in ("61.0 %", "57.3 %", "95 % interval 53.5 to 68.1", "66.0 %", "1.50"):
        assert shown in page.text
    assert "without suspicious rows" in page.text
    assert "(1 of the baseline's and 1 of the model's)" in page.text
    assert "rows text, 7. They count as judged; without them: win rate 66.0" in page.text
    for shown in ("Nobody picked these", "300 verdicts on 150 pairs", "88, 7, 55", "1 of 3"):
        assert shown in page.text
    drawings = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert drawings == ({"leaderboard", "by-length"} if kind == "alpaca" else {"by-length"})


def test_verdicts_say_no_more_than_the_interval(tmp_path: Path) -> None:
    content = evaluation("win-rate", "m")
    assert win_rate.build_page(content, tmp_path).verdict.startswith("m answers better than m")
    content["win_rate"] = {**RATE, "interval": {**INTERVAL, "low": 48.0}}
    assert win_rate.build_page(content, tmp_path).verdict.startswith("No difference")
    content["win_rate"] = {**RATE, "interval": {**INTERVAL, "low": 20.0, "high": 40.0}}
    assert win_rate.build_page(content, tmp_path).verdict.startswith("m answers worse")
    content["trust"] = {"trusted": False}
    for build in (win_rate.build_page, alpaca.build_page):
        assert "did not pass its test, so this is no evidence" in build(content, tmp_path).verdict


def test_what_does_not_compare_says_so_before_all_else(tmp_path: Path) -> None:
    page = alpaca.build_page(evaluation("alpaca", "why"), tmp_path)
    assert page.remarks[0] == "Not to be compared with the published leaderboard. why"
    official = {**evaluation("alpaca"), "not_comparable": ""}
    page = alpaca.build_page(official, tmp_path)
    assert not any("Not to be compared" in text for text in page.remarks)
    assert "number 12 beside 222 published models" in page.tables[0].note


@pytest.mark.parametrize("kind", ["alpaca", "win-rate"])
def test_hostile_texts_are_inert(kind: str, tmp_path: Path) -> None:
    page = Page(written(tmp_path, evaluation(kind, HOSTILE)))
    assert page.live == []
    assert page.misnested == []
    assert "alert(1)" in page.text


@pytest.mark.parametrize("build", [alpaca.build_page, win_rate.build_page])
@pytest.mark.parametrize("junk", [None, 7, "x", [], {}, [None], {"a": None}, float("nan")])
def test_a_broken_file_still_has_a_page(
    build: Callable[..., Evidence], junk: Any, tmp_path: Path
) -> None:
    assert build({}, tmp_path).verdict
    for name in evaluation("alpaca"):
        assert build({**evaluation("alpaca"), name: junk}, tmp_path).verdict
    for name in RATE:
        broken = {**evaluation("win-rate"), "win_rate": {**RATE, name: junk}}
        assert build(broken, tmp_path).verdict
