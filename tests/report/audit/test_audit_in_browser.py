"""The page in a real browser: nothing planted in the data runs, nothing is asked for, all fits."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest

from orpo.report import write_audit_page
from tests.report.audit.audits import audit_of, planted
from tests.report.browser import Browser
from tests.report.canaries import CANARIES, SHORT, framed, unguarded


def page_text(audit: dict[str, Any], folder: Path) -> str:
    return write_audit_page(audit, folder / "audit.html").read_text(encoding="utf-8")


def test_the_canaries_are_alive(browser: Browser) -> None:
    shown = browser.open(f"<!doctype html><title>quiet</title><body><p>{CANARIES}</p>")
    assert shown.title == "ran"
    asked = {line.split()[1].rsplit("/", 1)[1] for line in shown.requests if "canary" in line}
    assert {"i.css", "s.js", "p.png", "f", "l.css"} <= asked


@pytest.mark.parametrize("guarded", [True, False], ids=["with policy", "without policy"])
def test_nothing_planted_in_the_data_runs_or_asks_for_anything(
    browser: Browser, tmp_path: Path, guarded: bool
) -> None:
    page = page_text(planted(audit_of(), CANARIES), tmp_path)
    opened = page.replace("<details>", "<details open>")
    shown = browser.open(opened if guarded else unguarded(opened))
    assert "data audit" in shown.title
    assert shown.title != "ran"
    assert shown.requests == []
    assert "<script" not in shown.dom
    assert "<iframe" not in shown.dom
    assert shown.dom.count(html.escape(SHORT, quote=False)) > 80


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_screen(browser: Browser, tmp_path: Path, width: int) -> None:
    audit = audit_of()
    pages = {
        "plain": page_text(audit, tmp_path),
        "unbroken": page_text(planted(audit, "x" * 900), tmp_path),
        "canaries": page_text(planted(audit, CANARIES), tmp_path),
    }
    found = json.loads(browser.open(framed(pages, width)).title)
    assert found.keys() == pages.keys()
    for frame, client, scroll in found.values():
        assert frame == width
        assert scroll <= client
