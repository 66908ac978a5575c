"""Run folders for the report, and a browser to open its pages in."""

from __future__ import annotations

import json
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from orpo.report.page import Figure
from orpo.runs.files import (
    EVALUATION,
    EVENTS,
    METRICS,
    RECIPE,
    SAMPLES,
    write_json,
    write_jsonl,
    write_yaml,
)
from tests.report.browser import Browser, Listener
from tests.report.runs import (
    EVALUATION_OF,
    TOTALS,
    BuildRun,
    held_out_lines,
    recipe_of,
    sample_rows,
    training_lines,
)

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture
def build_run(tmp_path: Path) -> BuildRun:
    """Writes a run folder; give None to leave a file out."""

    def build(
        *,
        name: str = "everyday",
        recipe: dict[str, Any] | None = None,
        metrics: list[dict[str, Any]] | None = None,
        evaluation: dict[str, Any] | None = None,
        samples: list[dict[str, Any]] | None = None,
        events: list[dict[str, Any]] | None = None,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        write_yaml(folder / RECIPE, recipe_of() if recipe is None else recipe)
        if metrics is not None:
            text = "".join(json.dumps(line) + "\n" for line in metrics)
            (folder / METRICS).write_text(text, encoding="utf-8")
        if evaluation is not None:
            write_json(folder / EVALUATION, evaluation)
        if samples is not None:
            write_jsonl(folder / SAMPLES, samples)
        if events is not None:
            write_jsonl(folder / EVENTS, events)
        return folder

    return build


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without their figures, for tests of what they say."""
    monkeypatch.setattr(Figure, "inline", Markup("<svg></svg>"))


@pytest.fixture
def full_run(build_run: BuildRun) -> Path:
    """A finished run with everything in its folder."""
    return build_run(
        metrics=[*training_lines(), *held_out_lines(), TOTALS],
        evaluation=EVALUATION_OF,
        samples=sample_rows(),
        events=[{"step": 120, "kind": "resumed", "message": "going on from checkpoint-120"}],
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
