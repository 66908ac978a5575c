"""Pages in headless Chromium: nothing planted runs, nothing is asked for, all of it fits."""

import html
import itertools
import re
import shutil
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orpo.audit.findings import Audit
from orpo.report.audit import audit_page
from orpo.report.page import render
from orpo.report.write import RESULTS, write_report
from tests.documents import ROOT
from tests.report.pages import audit_of, planted, poisoned
from tests.report.runs import (
    TOTALS,
    BuildRun,
    full_files,
    held_out_lines,
    recipe_of,
    training_lines,
    write_run,
)
from tests.report.test_evaluation_pages import FOLDERS
from tests.report.test_evaluation_pages import planted as planted_evaluation

sys.path.append(str(ROOT / "scripts"))
import screenshots

_QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--no-default-browser-check", "--disable-background-networking"),
    *("--disable-component-update", "--disable-default-apps", "--disable-domain-reliability"),
    *("--disable-extensions", "--disable-sync", "--proxy-bypass-list=<-loopback>", "--dump-dom"),
    "--disable-features=MediaRouter,OptimizationHints,Translate,AutofillServerCommunication",
)
_ERRANDS = re.compile(r"\b(?:google|googleapis|gstatic|gvt1)\.com\b")
"""Where the browser itself looks for updates, whatever page it shows."""
FAR = "很长的 قائمة 👩 "
KNOCKS: list[str] = []
"""The first line of every request that reached the listener."""

RAN = "document.title='ran'"
SHORT = f"\"'><img src=x onerror={RAN}>"
CONTROLS = "\u202egnp.exe\u2066\x1b]0;title\x07\x00"
CANARIES = (
    f"{SHORT}</p></details></title></style><style>@import url(http://canary.invalid/i.css);"
    "body{background:url(http://canary.invalid/b.png)}</style>"
    f'<script>{RAN}</script><script src="http://canary.invalid/s.js"></script>'
    f'<img src="http://canary.invalid/p.png" onerror="{RAN}"><svg onload="{RAN}"></svg>'
    f'<iframe src="javascript:{RAN}"></iframe><iframe src="http://canary.invalid/f"></iframe>'
    '<link rel="stylesheet" href="http://canary.invalid/l.css">'
    f'<a href="javascript:{RAN}">javascript:{RAN}</a> http://canary.invalid/text '
    f"<details open ontoggle=\"{RAN}\"></details>' style='--x:url(http://canary.invalid/a)"
)


class Listener(socketserver.StreamRequestHandler):
    """Takes every request for a proxy's, writes it down, and refuses it."""

    def handle(self) -> None:
        KNOCKS.append(self.rfile.readline().decode("latin-1").strip())
        self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")


@dataclass(frozen=True)
class Shown:
    """A document after it was loaded, and what it asked for."""

    dom: str
    requests: list[str]

    @property
    def title(self) -> str:
        found = re.search(r"<title>(.*?)</title>", self.dom, re.DOTALL)
        return html.unescape(found[1]) if found else ""


Browser = Callable[..., Shown]
"""Loads a page, or the address of one, runs its scripts, and tells what came of it."""


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Headless Chromium, whose requests all go to a listener of ours."""
    program = next((found for name in screenshots.PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    folder = tmp_path_factory.mktemp("chromium")
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Listener) as server:
        server.daemon_threads = True
        proxy = f"--proxy-server=127.0.0.1:{server.server_address[1]}"

        def show(page: str, *flags: str) -> Shown:
            address = page
            if not page.startswith("file:"):
                path = folder / f"page-{len(list(folder.iterdir()))}.html"
                path.write_text(page, encoding="utf-8")
                address = path.as_uri()
            before, own = len(KNOCKS), f"--user-data-dir={folder / 'profile'}"
            command = [program, *_QUIET, *flags, proxy, own, address]
            done = subprocess.run(command, capture_output=True, check=True, timeout=60)
            asked = [line for line in KNOCKS[before:] if not _ERRANDS.search(line)]
            return Shown(done.stdout.decode("utf-8", "replace"), asked)

        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            try:
                assert show("<!doctype html><title>here</title>").title == "here"
            except subprocess.SubprocessError as error:
                pytest.skip(f"Chromium does not start here: {error}")
            yield show
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def folders(build_run: BuildRun, tmp_path: Path) -> dict[str, Path]:
    """A run and an evaluation whose answers, names, settings and events all hold canaries."""
    poison = CANARIES + CONTROLS
    sample = {"prompt": poison, "chosen": poison, "before": poison, "after": poison}
    sample |= {"correct_before": True, "correct_after": False, "task": poison}
    finding = {"check": "x", "title": poison, "verdict": "stop", "count": 1, "of": 2}
    run = build_run(
        name="planted",
        recipe=recipe_of(run_name=poison, model=poison, hub_token=poison),
        metrics=[*training_lines(), *held_out_lines(name=SHORT), TOTALS],
        samples=[sample] * 25,
        events=[{"step": 3, "kind": poison, "message": poison}],
        evaluation={"before": {}, "after": {"verdict": poison, "preference_accuracy": 0.9}},
        audit={"findings": [finding | {"says": poison}]},
    )
    return {"run": run, "evaluation": planted_evaluation("win-rate", tmp_path / "eval", poison)}


def audit_text(text: str) -> str:
    return render(audit_page(Audit.from_dict(planted(audit_of(), text))))


def texts(folders: dict[str, Path]) -> dict[str, str]:
    pages = {name: write_report(one).read_text(encoding="utf-8") for name, one in folders.items()}
    return {"audit": audit_text(CANARIES), **pages}


@pytest.mark.parametrize("guarded", [True, False], ids=["with policy", "without policy"])
@pytest.mark.parametrize("kind", ["audit", "run", "evaluation"])
def test_nothing_a_model_wrote_runs(
    browser: Browser, folders: dict[str, Path], kind: str, guarded: bool
) -> None:
    page = texts(folders)[kind].replace("<details", "<details open")
    start = page.index('<meta http-equiv="Content-Security-Policy"')
    if not guarded:  # nothing but escaping protects it
        page = page[:start] + page[page.index(">", start) + 1 :]
    shown = browser(page)
    assert shown.title != "ran"
    assert shown.requests == []
    for tag in ("<script", "<iframe", "<img", "<link", "<a "):
        assert tag not in shown.dom
    assert shown.dom.count(html.escape(SHORT, quote=False)) > 15
    assert not set("\u202e\u2066\x1b\x07") & set(shown.dom)


def test_figures_of_their_own_are_inert_too(browser: Browser, folders: dict[str, Path]) -> None:
    write_report(folders["evaluation"])
    for path in (folders["evaluation"] / "figures").glob("*.svg"):
        element = path.read_text(encoding="utf-8").split("?>", 1)[1]
        shown = browser(f"<!doctype html><title>quiet</title>{element}")
        assert shown.title == "quiet"
        assert shown.requests == []


def test_the_canaries_are_alive(browser: Browser) -> None:
    shown = browser(f"<!doctype html><title>quiet</title><body><p>{CANARIES}</p>")
    assert shown.title == "ran"
    asked = {line.split()[1].rsplit("/", 1)[1] for line in shown.requests if "canary" in line}
    assert {"i.css", "s.js", "p.png", "f", "l.css"} <= asked
    planted = f'<!doctype html><title>quiet</title><svg onload="{RAN}"></svg>'
    assert browser(planted).title == "ran"


@pytest.fixture(scope="session")
def window() -> Iterator[Any]:
    """The browser of `scripts/screenshots.py`."""
    with ExitStack() as stack:
        try:
            yield stack.enter_context(screenshots.browser())
        except (OSError, RuntimeError) as error:
            pytest.skip(f"no Chromium: {error}")


def made(kind: str, text: str, full: Path, folder: Path) -> str:
    """A page of each kind; with a text in every place that data can name."""
    if kind == "audit":
        return audit_text(text) if text else render(audit_page(Audit.from_dict(audit_of())))
    if kind != "run":
        full = planted_evaluation(kind, folder, text) if text else FOLDERS / kind
    elif text:
        full = write_run(
            folder / "long", poisoned(recipe_of(), text), **poisoned(full_files(), text)
        )
    return write_report(full, folder / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["", "x" * 900, FAR * 60], ids=["real", "long", "far"])
@pytest.mark.parametrize("kind", ["audit", "run", *RESULTS])
def test_a_page_can_be_read(
    kind: str, text: str, window: Any, full_run: Path, tmp_path: Path
) -> None:
    """Nothing is wider than the page, cut, empty or too faint, on paper white and black."""
    page = tmp_path / "shown.html"
    page.write_text(made(kind, text, full_run, tmp_path), encoding="utf-8")
    for width, scheme in itertools.product(screenshots.WIDTHS, screenshots.SCHEMES):
        window.show(page, width, scheme)
        assert window.measure(screenshots.FAULTS) == [], (width, scheme)


def test_what_cannot_be_read_is_found(window: Any, tmp_path: Path) -> None:
    faults = {
        "too wide": '<p style="width:2000px">',
        "cut": '<div style="overflow:auto"><p style="width:2000px">',
        "too faint": '<p style="color:#aaa">',
        "outside of its figure": '<svg width="9"><text x="50">',
        "an empty tile": '<div class="parts"><b>',
        "a heading out of order": "<h3>",
        "no headers": "<table><td>",
        "an empty header": "<table><th>",
        "no alternative text": '<b role="img">',
    }
    page = tmp_path / "page.html"
    for fault, element in faults.items():
        page.write_text(f"<!doctype html><body>{element}{'a' * (fault != 'an empty header')}")
        window.show(page, 400, "light")
        assert any(one.startswith(f"{fault}:") for one in window.measure(screenshots.FAULTS)), fault
