"""Pages in a real browser: nothing planted runs, nothing is asked for, all of it fits."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest

from orpo.audit.findings import Audit
from orpo.report.audit import audit_page
from orpo.report.page import render
from orpo.report.write import write_page, write_report
from tests.report.audits import audit_of, planted
from tests.report.browser import Browser
from tests.report.canaries import CANARIES, RAN, SHORT, framed, unguarded
from tests.report.evaluation_pages import page_of, planted_page
from tests.report.runs import TOTALS, BuildRun, held_out_lines, recipe_of, training_lines

CONTROLS = "\u202egnp.exe\u2066\x1b]0;title\x07\x00"


@pytest.fixture
def planted_run(build_run: BuildRun) -> Path:
    """A run whose model answers, names, settings and events all hold canaries."""
    poison = CANARIES + CONTROLS
    sample = {"prompt": poison, "chosen": poison, "before": poison, "after": poison}
    folder = build_run(
        name="planted",
        recipe=recipe_of(run_name=poison, model=poison, hub_token=poison),
        metrics=[*training_lines(), *held_out_lines(name=SHORT), TOTALS],
        samples=[
            sample | {"correct_before": True, "correct_after": False, "task": poison}
            for _ in range(25)
        ],
        events=[{"step": 3, "kind": poison, "message": poison}],
        evaluation={"before": {}, "after": {"verdict": poison, "preference_accuracy": 0.9}},
    )
    finding = {
        "check": "x",
        "title": poison,
        "verdict": "stop",
        "count": 1,
        "of": 2,
        "says": poison,
    }
    (folder / "audit.json").write_text(json.dumps({"findings": [finding]}), encoding="utf-8")
    return folder


def audit_text(audit: dict[str, Any]) -> str:
    return render(audit_page(Audit.from_dict(audit)))


def texts(planted_run: Path, tmp_path: Path) -> dict[str, str]:
    evaluation = write_page(planted_page(CANARIES + CONTROLS), tmp_path / "eval")
    return {
        "audit": audit_text(planted(audit_of(), CANARIES)),
        "run": write_report(planted_run).read_text(encoding="utf-8"),
        "evaluation": evaluation.read_text(encoding="utf-8"),
    }


@pytest.mark.parametrize("guarded", [True, False], ids=["with policy", "without policy"])
@pytest.mark.parametrize("kind", ["audit", "run", "evaluation"])
def test_nothing_a_model_wrote_runs(
    browser: Browser, planted_run: Path, tmp_path: Path, kind: str, guarded: bool
) -> None:
    page = texts(planted_run, tmp_path)[kind].replace("<details", "<details open")
    shown = browser.open(page if guarded else unguarded(page))
    assert shown.title != "ran"
    assert shown.requests == []
    for tag in ("<script", "<iframe", "<img", "<link", "<a "):
        assert tag not in shown.dom
    assert shown.dom.count(html.escape(SHORT, quote=False)) > 15
    assert not set("\u202e\u2066\x1b\x07") & set(shown.dom)


def test_figures_of_their_own_are_inert_too(browser: Browser, tmp_path: Path) -> None:
    write_page(planted_page(CANARIES), tmp_path)
    for path in (tmp_path / "figures").glob("*.svg"):
        element = path.read_text(encoding="utf-8").split("?>", 1)[1]
        shown = browser.open(f"<!doctype html><title>quiet</title>{element}")
        assert shown.title == "quiet"
        assert shown.requests == []


def test_the_canaries_are_alive(browser: Browser) -> None:
    shown = browser.open(f"<!doctype html><title>quiet</title><body><p>{CANARIES}</p>")
    assert shown.title == "ran"
    asked = {line.split()[1].rsplit("/", 1)[1] for line in shown.requests if "canary" in line}
    assert {"i.css", "s.js", "p.png", "f", "l.css"} <= asked


def test_the_check_sees_a_figure_that_is_not_inert(browser: Browser) -> None:
    planted = f'<!doctype html><title>quiet</title><svg onload="{RAN}"></svg>'
    assert browser.open(planted).title == "ran"


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(
    browser: Browser, planted_run: Path, full_run: Path, tmp_path: Path, width: int
) -> None:
    plain = write_page(page_of(("x" * 900,) * 6), tmp_path / "plain")
    pages = texts(planted_run, tmp_path) | {
        "plain": plain.read_text(encoding="utf-8"),
        "audit of long words": audit_text(planted(audit_of(), "x" * 900)),
        "full": write_report(full_run).read_text(encoding="utf-8"),
    }
    found = json.loads(browser.open(framed(pages, width)).title)
    assert found.keys() == pages.keys()
    for name, (frame, client, scroll) in found.items():
        assert frame == width
        assert scroll <= client, name
