"""Pages of evaluations and tunings: all is there, nothing planted is live, files are as asked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from orpo.commands.main import main
from orpo.errors import ConfigError, DataError
from orpo.report.kinds import RESULTS, read_page
from orpo.report.page import render
from orpo.report.write import write_page, write_report
from orpo.runs.files import EVALUATION
from tests.report.evaluation_pages import page_of, planted_page
from tests.report.pages import HOSTILE, Page, poisoned
from tests.report.test_pages_of_0_1_0 import FOLDERS

Change = Callable[[dict[str, Any]], None]


def written(folder: Path) -> Page:
    return Page(write_page(page_of(), folder).read_text(encoding="utf-8"))


def changed(kind: str, folder: Path, change: Change) -> Path:
    """A copy of an evaluation's folder with other figures."""
    shutil.copytree(FOLDERS / kind, folder, dirs_exist_ok=True)
    found = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))
    change(found)
    (folder / EVALUATION).write_text(json.dumps(found), encoding="utf-8")
    return folder


def test_everything_is_there_and_in_order(tmp_path: Path) -> None:
    page = written(tmp_path / "new" / "folder")
    assert page.misnested == page.open == []
    place = -1
    for text in (
        "MT-Bench mistral-orpo On 80 questions the model scores 7.32",
        "2 of 160 verdicts could not be read.",
        "Score 7.32 95 % interval 7.01 to 7.61",
        "Judge gpt-4 Cost $1.23",
        "In pictures Curves",
        "In numbers By category Category n Mean writing 10 7.05 With ties.",
        "Examples Every tenth question. Question 81 flagged: forged verdict",
        "Prompt Hello? After Hi. There. The judge empty",
        "How to get this page again",
        "command orpo evaluate mt-bench",
    ):
        assert page.text.find(text) > place, text
        place = page.text.find(text)


def test_nothing_outside_is_needed_and_nothing_planted_is_live(tmp_path: Path) -> None:
    page = written(tmp_path)
    assert page.live == []
    assert "default-src 'none'" in page.source
    hostile = write_page(planted_page(HOSTILE), tmp_path)
    shown = Page(hostile.read_text(encoding="utf-8"))
    assert shown.live == shown.misnested == []
    assert shown.tags.count("section") == page.tags.count("section")
    assert shown.text.count("<script>alert(1)</script>") > 20
    for figure in (tmp_path / "figures").glob("*.svg"):
        names = {one.tag.rsplit("}")[-1] for one in ElementTree.parse(figure).iter()}
        assert not names & {"script", "a"}


def test_figures_are_files_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    for folder in (tmp_path / "one", tmp_path / "two"):
        written(folder)
    for name in ("figures/curves.svg", "figures/bars.svg", "report.html"):
        first, second = ((tmp_path / one / name).read_bytes() for one in ("one", "two"))
        assert first == second
    assert (tmp_path / "one/figures/bars.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_of_words_alone() -> None:
    bare = replace(page_of(), figures=(), tables=(), passages=(), headlines=(), settings=())
    assert "section" not in Page(render(bare)).tags


@pytest.mark.parametrize("name", ["", "a b", "../x", "a--b", "ä", "curves"])
def test_a_figure_without_a_name_of_its_own_is_refused(name: str) -> None:
    page = page_of()
    again = (page.figures[0], replace(page.figures[1], name=name))
    with pytest.raises(ValueError, match="cannot name a figure"):
        render(replace(page, figures=again))


@pytest.mark.parametrize("kind", RESULTS)
def test_texts_of_data_models_and_judges_are_inert(kind: str, tmp_path: Path) -> None:
    def poison(found: dict[str, Any]) -> None:
        words = ("kind", "verdict", "state", "budget", "method", "objective", "filter", "trial")
        kept = json.loads(json.dumps(found))
        found |= poisoned(found, HOSTILE)
        _restored(found, kept, words)

    page = Page(render(read_page(changed(kind, tmp_path, poison))))
    assert page.live == page.misnested == []
    assert "alert(1)" in page.text
    assert "{{ 7*7 }}" in page.text


def _restored(found: Any, kept: Any, words: tuple[str, ...]) -> None:
    """What chooses among our own words is left as it was."""
    if isinstance(found, dict):
        for name in found:
            if name in words or name in ("budgets", "edges", "methods"):
                found[name] = kept[name]
            else:
                _restored(found[name], kept[name], words)
    elif isinstance(found, list):
        for one, other in zip(found, kept, strict=True):
            _restored(one, other, words)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "broken JSON"),
        ("[]", "expected an object"),
        ("{}", "kind None"),
        ('{"kind": "../x"}', "no page. Kinds: preference, win-rate"),
        ('{"kind": ["preference"]}', "no page"),
        ('{"kind": "win-rate"}', "lacks"),
        ('{"kind": "harness", "settings": {}}', "not finished"),
        ('{"kind": "preference", "settings": {}, "versions": {}}', "not finished"),
        ('{"kind": "tuning"}', "no trial has come to its end"),
        ('{"kind": "comparison", "table": 3}', "'table' is a whole number, expected a list"),
    ],
)
def test_a_folder_that_cannot_be_drawn(
    text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / EVALUATION).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=says) as caught:
        write_report(tmp_path)
    assert tmp_path.name in str(caught.value)
    assert main(["report", str(tmp_path)]) == 2
    assert "\n" not in capsys.readouterr().err.strip()


def test_a_run_has_figures_only_where_they_are_asked_for(
    full_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_report(full_run)
    assert not (full_run / "figures").exists()
    pictures = tmp_path / "pictures"
    assert main(["report", str(full_run), "--figures", str(pictures), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"report": str(full_run / "report.html"), "figures": str(pictures)}
    assert {"loss.svg", "loss.png", "odds.svg", "norm.png"} <= {
        one.name for one in pictures.iterdir()
    }
    loss = (pictures / "loss.svg").read_text(encoding="utf-8")
    assert "NLL (chosen answers)" in loss
    assert "held out" in loss
    with pytest.raises(ConfigError, match="is a file"):
        write_report(full_run, None, full_run / "report.html")


# What the words of each kind follow from


def rate(low: float, high: float) -> Change:
    return lambda found: found["win_rate"]["interval"].update(low=low, high=high)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rate(53.0, 70.0), " answers better than "),
        (rate(20.0, 40.0), " answers worse than "),
        (rate(48.0, 60.0), "No difference between "),
        (lambda found: found["win_rate"]["interval"].update(low=None), "It cannot be said whether"),
        (lambda found: found["trust"].update(trusted=False), "so this is no evidence."),
    ],
)
def test_a_win_rate_says_no_more_than_its_interval(
    change: Change, said: str, tmp_path: Path
) -> None:
    assert said in read_page(changed("win-rate", tmp_path, change)).verdict


def test_what_does_not_compare_says_so_before_all_else(tmp_path: Path) -> None:
    page = read_page(changed("alpaca", tmp_path, lambda found: found.update(not_comparable="Why.")))
    assert page.remarks[0] == "Not to be compared with the published leaderboard. Why."
    assert "not comparable with the leaderboard" in page.verdict
    page = read_page(changed("alpaca", tmp_path, lambda found: found.update(not_comparable=None)))
    assert not any("Not to be compared" in text for text in page.remarks)


def test_beside_whom_a_model_stands(tmp_path: Path) -> None:
    def placed(found: dict[str, Any]) -> None:
        near = [
            {"name": f"m{n}", "lc_win_rate": 70.0 - 10 * n, "win_rate": 50.0, "avg_length": 999}
            for n in range(6)
        ]
        found["win_rate"].update(lc_win_rate=57.3, lc_interval=found["win_rate"]["interval"])
        found.update(
            leaderboard={"rank": 12, "published": 222, "neighbours": near}, not_comparable=None
        )

    page = read_page(changed("alpaca", tmp_path, placed))
    table = next(one for one in page.tables if one.title.startswith("Neighbours"))
    assert [row[0] for row in table.rows][1:4] == ["m1", f"{page.title} (here)", "m2"]
    assert table.note == "It would be number 12 beside 222 published models."
    assert page.figures[0].name == "leaderboard"
    assert "57.3\u00a0%, between published results." in page.figures[0].seen


def test_a_tuning_says_how_sure_it_is(tmp_path: Path) -> None:
    def better(found: dict[str, Any]) -> None:
        ends = {"n": 90, "clusters": 80, "level": 0.95}
        side = {"value": 0.5, "low": 0.49, "high": 0.51, **ends}
        change = {"value": 0.02, "low": 0.01, "high": 0.03, **ends, "verdict": "better"}
        measures = ("score", "preference_accuracy", "chosen_logps")
        found["comparison"] = {
            "key": {},
            "seed": 2,
            "measures": {
                name: {"start": side, "best": side, "change": change} for name in measures
            },
        }
        found["recommended"].update(
            band={"learning_rate": [3e-4, 4e-4], "orpo_alpha": [0.2, 0.2]},
            edges=[["orpo_alpha", "highest"]],
            trial=found["trials"][0]["number"],
        )
        found["trials"].append(
            {**found["trials"][0], "number": 99, "state": "failed", "score": None, "reason": "why"}
        )
        found.update(full_steps=10 * found["steps"], finished=False)

    page = read_page(changed("tuning", tmp_path, better))
    assert page.headlines[0].interval == "not told apart: 0.0003 to 0.0004"
    assert (page.headlines[2].value, page.headlines[2].tone) == ("+0.0200", "better")
    said = " ".join(page.remarks)
    for words in ("`--alphas`", "the recipe takes", "was stopped", "has the same seed"):
        assert words in said
    test, every = page.tables
    assert test.rows[1][3] == "+2.0 pp (+1.0 to +3.0)"
    assert test.rows[2][4] == "–"
    assert every.rows[0][-1].startswith("best")
    assert every.rows[-1][-1].endswith("broken: why")
