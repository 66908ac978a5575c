"""Headless Chromium that can reach nothing but a listener, which writes down who knocked."""

from __future__ import annotations

import re
import socketserver
import subprocess
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path

_QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-sync",
    "--disable-features=MediaRouter,OptimizationHints,Translate,AutofillServerCommunication",
    "--proxy-bypass-list=<-loopback>",
    "--dump-dom",
)

_ERRANDS = re.compile(r"\b(?:google|googleapis|gstatic|gvt1)\.com\b")
"""Where the browser itself looks for updates, whatever page it shows."""

KNOCKS: list[str] = []
"""The first line of every request that reached the listener."""


class Listener(socketserver.StreamRequestHandler):
    """Takes every request for a proxy's, writes it down, and refuses it."""

    def handle(self) -> None:
        line = self.rfile.readline().decode("latin-1").strip()
        KNOCKS.append(line)
        self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")


@dataclass(frozen=True)
class Shown:
    """What came of opening a page.

    Attributes:
        dom: The document after it was loaded.
        requests: The requests that were tried, without the browser's own errands.
    """

    dom: str
    requests: list[str]

    @property
    def title(self) -> str:
        found = re.search(r"<title>(.*?)</title>", self.dom, re.DOTALL)
        return unescape(found[1]) if found else ""


@dataclass
class Browser:
    """Opens pages.

    Attributes:
        program: The browser.
        server: Where all its requests go.
        folder: For pages and the browser's own files.
    """

    program: str
    server: socketserver.TCPServer
    folder: Path
    _opened: list[Path] = field(default_factory=list)

    def open(self, page: str) -> Shown:
        """Load a page from a file, run its scripts, and tell what came of it."""
        path = self.folder / f"page-{len(self._opened)}.html"
        path.write_text(page, encoding="utf-8")
        self._opened.append(path)
        before = len(KNOCKS)
        done = subprocess.run(
            [
                self.program,
                *_QUIET,
                f"--proxy-server=127.0.0.1:{self.server.server_address[1]}",
                f"--user-data-dir={self.folder / 'profile'}",
                path.as_uri(),
            ],
            capture_output=True,
            check=True,
            timeout=60,
        )
        asked = [line for line in KNOCKS[before:] if not _ERRANDS.search(line)]
        return Shown(done.stdout.decode("utf-8", "replace"), asked)
