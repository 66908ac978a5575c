"""Pages of evaluations, comparisons and tunings, drawn from folders that version 0.1.0 wrote."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from orpo.commands.main import main
from orpo.errors import ConfigError, DataError
from orpo.report.page import render
from orpo.report.write import RESULTS, read_page, write_report
from orpo.runs.files import EVALUATION
from tests.report.pages import HOSTILE, Page, assert_complete, poisoned

FOLDERS = Path(__file__).parent / "written_by_0_1_0"
OURS = ("kind", "verdict", "state", "budget", "method", "objective", "filter", "trial")
Change = Callable[[dict[str, Any]], None]


def changed(kind: str, folder: Path, change: Change) -> Path:
    """A copy of an evaluation's folder with other figures."""
    shutil.copytree(FOLDERS / kind, folder, dirs_exist_ok=True)
    found = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))
    change(found)
    (folder / EVALUATION).write_text(json.dumps(found), encoding="utf-8")
    return folder


def planted(kind: str, folder: Path, text: str) -> Path:
    """The same with a text in the place of each but those that choose among our own words."""

    def restored(found: Any, kept: Any) -> None:
        if isinstance(found, dict):
            for name in found:
                if name in (*OURS, "budgets", "edges", "methods"):
                    found[name] = kept[name]
                else:
                    restored(found[name], kept[name])
        elif isinstance(found, list):
            for one, other in zip(found, kept, strict=True):
                restored(one, other)

    def plant(found: dict[str, Any]) -> None:
        kept = json.loads(json.dumps(found))
        found |= poisoned(found, text)
        restored(found, kept)

    return changed(kind, folder, plant)


@pytest.mark.usefixtures("no_pixels")
@pytest.mark.parametrize("kind", sorted(path.name for path in FOLDERS.iterdir()))
def test_an_old_folder_says_what_it_said_each_time(kind: str, tmp_path: Path) -> None:
    """Each number and sentence; the same bytes twice."""
    folder = tmp_path / "run"
    shutil.copytree(FOLDERS / kind, folder)
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert page.lines == (FOLDERS / kind / "page.txt").read_text(encoding="utf-8").splitlines()
    assert_complete(page)
    figures = {path.name: path.read_bytes() for path in (folder / "figures").glob("*")}
    assert len(figures) == (0 if kind == "run" else 2 * page.tags.count("figure"))
    assert all(file[:4] in (b"<?xm", b"\x89PNG") for file in figures.values())
    again = write_report(folder, tmp_path / "again.html").read_text(encoding="utf-8")
    assert again == page.source


@pytest.mark.usefixtures("no_pixels")
@pytest.mark.parametrize("kind", RESULTS)
def test_texts_of_data_models_and_judges_are_inert(kind: str, tmp_path: Path) -> None:
    folder = planted(kind, tmp_path, HOSTILE)
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert page.live == page.misnested == []
    assert "<script>alert(1)" in page.text
    assert "{{ 7*7 }}" in page.text
    for figure in (folder / "figures").glob("*.svg"):
        names = {one.tag.rsplit("}")[-1] for one in ElementTree.parse(figure).iter()}
        assert not names & {"script", "a"}


def test_a_page_of_words_alone() -> None:
    page = read_page(FOLDERS / "harness")
    bare = replace(page, figures=(), tables=(), passages=(), headlines=(), settings=())
    assert "section" not in Page(render(bare)).tags


@pytest.mark.parametrize("name", ["", "a b", "../x", "a--b", "ä", "accuracy"])
def test_a_figure_without_a_name_of_its_own_is_refused(name: str) -> None:
    page = read_page(FOLDERS / "preference")
    again = (page.figures[0], replace(page.figures[1], name=name))
    with pytest.raises(ValueError, match="cannot name a figure"):
        render(replace(page, figures=again))


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
    assert "its NLL part" in loss
    assert "held out" in loss
    with pytest.raises(ConfigError, match="is a file"):
        write_report(full_run, None, full_run / "report.html")


# What the words of each kind follow from


def rate(low: float | None, high: float = 60.0) -> Change:
    return lambda found: found["win_rate"]["interval"].update(low=low, high=high)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rate(53.0, 70.0), " answers better than "),
        (rate(20.0, 40.0), " answers worse than "),
        (rate(48.0), "No difference between "),
        (rate(None), "It cannot be said whether"),
        (
            lambda found: found["trust"].update(trusted=False),
            "This is no evidence: the judge did not pass its test. ",
        ),
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
        board = {"rank": 12, "published": 222, "neighbours": near}
        found["win_rate"].update(lc_win_rate=57.3, lc_interval=found["win_rate"]["interval"])
        found.update(leaderboard=board, not_comparable=None)

    page = read_page(changed("alpaca", tmp_path, placed))
    table = next(one for one in page.tables if one.title.startswith("Neighbours"))
    assert [row[0] for row in table.rows][1:4] == ["m1", f"{page.title} (here)", "m2"]
    assert table.note == "It would be number 12 beside 222 published models."
    assert page.figures[0].name == "leaderboard"
    assert "57.3\u00a0%, between published results." in page.figures[0].seen
    assert "(here)" in page.figures[0].svg


def test_the_worst_pairs_are_shown_with_what_is_known_of_them(tmp_path: Path) -> None:
    pair = {"row": 3, "log_odds": -1.5, "log_odds_before": None, "groups": {"task": "sums"}}
    texts = {"where": "a.jsonl:3", "prompt": "p", "chosen": "c", "rejected": "r"}
    worst = [pair | texts, pair | {"log_odds": math.inf, "log_odds_before": -2.0}]
    page = read_page(changed("preference", tmp_path, lambda found: found.update(worst=worst)))
    full, bare = page.passages
    assert full.title == "a.jsonl:3: log odds ratio −1.500"
    assert [label for label, _ in full.parts] == ["Prompt", "Chosen", "Rejected, and preferred"]
    assert bare.title == "row 3: log odds ratio not known, before −2.000"
    assert (bare.parts, bare.tags) == ([], ["sums"])


def test_a_tuning_says_how_sure_it_is(tmp_path: Path) -> None:
    def better(found: dict[str, Any]) -> None:
        ends = {"n": 90, "clusters": 80, "level": 0.95}
        side = {"value": 0.5, "low": 0.49, "high": 0.51, **ends}
        change = {"value": 0.02, "low": 0.01, "high": 0.03, **ends, "verdict": "better"}
        measure = {"start": side, "best": side, "change": change}
        measures = dict.fromkeys(("score", "preference_accuracy", "chosen_logps"), measure)
        found["comparison"] = {"key": {}, "seed": 2, "measures": measures}
        found["recommended"].update(
            band={"learning_rate": [3e-4, 4e-4], "orpo_alpha": [0.2, 0.2]},
            edges=[["orpo_alpha", "highest"]],
            trial=found["trials"][0]["number"],
        )
        failed = {"number": 99, "state": "failed", "score": None, "reason": "why"}
        found["trials"].append({**found["trials"][0], **failed})
        found.update(full_steps=10 * found["steps"], finished=False)

    page = read_page(changed("tuning", tmp_path, better))
    assert page.headlines[0].interval == "not told apart: 0.0003 to 0.0004"
    assert (page.headlines[2].value, page.headlines[2].tone) == ("+0.0200", "better")
    said = " ".join(page.remarks)
    for words in ("`--alphas`", "the recipe takes", "was stopped", "has the same seed"):
        assert words in said
    test, every = page.tables
    assert test.rows[1][3] == "+2.0\u00a0pp (+1.0 to +3.0)"
    assert test.rows[2][4] == "–"
    assert every.rows[0][-1].startswith("best")
    assert every.rows[-1][-1].endswith("broken: why")
    assert page.figures[0].svg
