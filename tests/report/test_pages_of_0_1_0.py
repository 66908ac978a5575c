"""Folders that version 0.1.0 wrote are drawn with the same facts: each number and sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orpo.report.write import write_report
from tests.report.pages import Page

FOLDERS = Path(__file__).parent / "written_by_0_1_0"


@pytest.mark.parametrize("kind", sorted(path.name for path in FOLDERS.iterdir()))
def test_an_old_folder_says_what_it_said(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(FOLDERS / kind, folder)
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert page.lines == (FOLDERS / kind / "page.txt").read_text(encoding="utf-8").splitlines()
    assert page.live == []
    assert page.misnested == page.open == []
    figures = {path.name for path in (folder / "figures").glob("*")}
    assert len(figures) == (0 if kind == "run" else 2 * page.tags.count("figure"))
