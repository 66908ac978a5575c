"""Pages of audits."""

from __future__ import annotations

from pathlib import Path

import pytest

from orpo.report import write_audit_page
from tests.report.pages import Page, PageOf


@pytest.fixture
def page_of(tmp_path: Path) -> PageOf:
    """The page of an audit, as a browser reads it."""
    return lambda audit: Page(
        write_audit_page(audit, tmp_path / "audit.html").read_text(encoding="utf-8")
    )
