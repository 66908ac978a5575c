import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from orpo.errors import ConfigError, DataError
from orpo.report import write_evaluation_page, write_report
from orpo.report.evaluation.redraw import BUILDERS
from orpo.runs import EVALUATION, write_json
from tests.report.evaluation_pages import page_of, planted_page
from tests.report.pages import HOSTILE, Page


def written(folder: Path) -> Page:
    return Page(write_evaluation_page(page_of(), folder).read_text(encoding="utf-8"))


def test_everything_is_there_and_in_order(tmp_path: Path) -> None:
    page = written(tmp_path / "new" / "folder")
    assert page.misnested == []
    assert page.open == []
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
    hostile = write_evaluation_page(planted_page(HOSTILE), tmp_path)
    shown = Page(hostile.read_text(encoding="utf-8"))
    assert shown.live == []
    assert shown.misnested == []
    assert shown.tags.count("section") == page.tags.count("section")
    assert shown.text.count("<script>alert(1)</script>") > 20
    for figure in (tmp_path / "figures").glob("*.svg"):
        names = {one.tag.rsplit("}")[-1] for one in ElementTree.parse(figure).iter()}
        assert "script" not in names
        assert "a" not in names


def test_figures_are_files_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    for folder in (tmp_path / "one", tmp_path / "two"):
        written(folder)
    for name in ("figures/curves.svg", "figures/bars.svg", "report.html"):
        first, second = ((tmp_path / one / name).read_bytes() for one in ("one", "two"))
        assert first == second
    assert (tmp_path / "one/figures/bars.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_of_words_alone(tmp_path: Path) -> None:
    bare = replace(page_of(), figures=(), tables=(), passages=(), headlines=(), settings=())
    page = Page(write_evaluation_page(bare, tmp_path).read_text(encoding="utf-8"))
    assert "section" not in page.tags


@pytest.mark.parametrize("name", ["", "a b", "../x", "a--b", "ä", "curves"])
def test_a_figure_without_a_name_of_its_own_is_refused(tmp_path: Path, name: str) -> None:
    page = page_of()
    again = (page.figures[0], replace(page.figures[1], name=name))
    with pytest.raises(ValueError, match="cannot name a figure"):
        write_evaluation_page(replace(page, figures=again), tmp_path)


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_folder_is_drawn_again_by_its_kind(tmp_path: Path, kind: str) -> None:
    write_json(tmp_path / EVALUATION, {"kind": kind})  # all else is missing
    try:
        page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    except DataError as error:
        assert "not finished" in str(error)  # noqa: PT017 - either is right
    else:
        assert page.misnested == []
        assert page.live == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "broken JSON"),
        ("[]", "expected an object"),
        ("{}", "kind None"),
        ('{"kind": "../x"}', "no page. Kinds: preference, win-rate"),
        ('{"kind": ["preference"]}', "no page"),
    ],
)
def test_a_folder_that_cannot_be_drawn(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / EVALUATION).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=says) as caught:
        write_report(tmp_path)
    assert EVALUATION in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_has_figures_only_where_they_are_asked_for(full_run: Path, tmp_path: Path) -> None:
    write_report(full_run)
    assert not (full_run / "figures").exists()
    write_report(full_run, tmp_path / "page.html", tmp_path / "pictures")
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert {"loss.svg", "loss.png", "odds.svg", "norm.png"} <= names
    loss = (tmp_path / "pictures/loss.svg").read_text(encoding="utf-8")
    assert "NLL (chosen answers)" in loss  # the legend stands in the picture
    assert "held out" in loss
    with pytest.raises(ConfigError, match="is a file"):
        write_report(full_run, None, tmp_path / "page.html")


def test_what_is_read_back_is_what_was_written(tmp_path: Path) -> None:
    text = json.dumps({"kind": "no such kind", "text": "中文"}, ensure_ascii=False)
    (tmp_path / EVALUATION).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="'no such kind'"):
        write_report(tmp_path)
