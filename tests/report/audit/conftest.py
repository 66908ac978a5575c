"""Pages of audits, and a browser to open them in."""

from __future__ import annotations

import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orpo.report import write_audit_page
from tests.report.audit.browser import Browser, Listener
from tests.report.pages import Page, PageOf

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture
def page_of(tmp_path: Path) -> PageOf:
    """The page of an audit, as a browser reads it."""
    return lambda audit: Page(
        write_audit_page(audit, tmp_path / "audit.html").read_text(encoding="utf-8")
    )


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Headless Chromium, whose requests all go to a listener of ours."""
    program = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Listener) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield started(Browser(program, server, tmp_path_factory.mktemp("chromium")))
        finally:
            server.shutdown()
            thread.join()


def started(browser: Browser) -> Browser:
    """The browser, if it can show anything at all here."""
    try:
        shown = browser.open("<!doctype html><title>here</title>")
    except subprocess.SubprocessError as error:
        pytest.skip(f"Chromium does not start here: {error}")
    assert shown.title == "here"
    return browser
