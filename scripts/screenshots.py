"""How pages look: PNGs at 1280 and 400 pixels, light and dark, and as paper, by headless Chromium.

    python scripts/screenshots.py FOLDER PAGE.html ... [--dark] [--print] [--width 1280 400]

FOLDER/NAME-1280-light.png and so on. Chromium is the system's; no driver is needed.
"""

import argparse
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--hide-scrollbars", "--disable-background-networking"),
    *("--disable-component-update", "--disable-extensions", "--disable-sync"),
)
WIDTHS, SCHEMES = (1280, 400), ("light", "dark")
HIGHEST = 16000  # pixels: beyond it Chromium paints the picture's start again

FAULTS = r"""
(() => {
  const found = new Set(), all = (what, of = document) => [...of.querySelectorAll(what)];
  const name = (e) => `${e.tagName.toLowerCase()}.${e.getAttribute("class") || ""}: ` +
    [...e.textContent.trim().replace(/\s+/g, " ")].slice(0, 40).join("");
  const fault = (what, e) => found.add(`${what}: ${name(e)}`);
  all("details").forEach((e) => { e.open = true; });
  const screen = document.documentElement.clientWidth, painted = document.createElement("canvas");
  const brush = painted.getContext("2d", { willReadFrequently: true });
  const colour = (text) => {
    brush.clearRect(0, 0, 1, 1);
    brush.fillStyle = text;
    brush.fillRect(0, 0, 1, 1);
    return [...brush.getImageData(0, 0, 1, 1).data];
  };
  const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const rgb = colour(getComputedStyle(e).backgroundColor);
      if (rgb[3] === 255) return light(rgb);
    }
    return 1;
  };
  const contrast = (text, e) => {
    const [low, high] = [light(colour(text)), behind(e)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const reaches = (e, box, room) => {
    const own = e.getBoundingClientRect();
    return own.width && (own.right > box.right + room || own.left < box.left - room);
  };
  for (const e of all("body *:not(svg *)")) {
    const look = getComputedStyle(e), own = [...e.childNodes].some((n) => n.data?.trim());
    const page = { left: 0, right: screen };
    if (reaches(e, page, 1) && !reaches(e.parentElement, page, 1)) fault("too wide", e);
    if (look.overflowX !== "visible" && e.scrollWidth > e.clientWidth + 1) fault("cut", e);
    const large = parseFloat(look.fontSize) >= 24 ? 3 : 4.5;
    if (own && e.checkVisibility() && contrast(look.color, e) < large) fault("too faint", e);
  }
  for (const figure of all("svg")) {
    const box = figure.getBoundingClientRect();
    for (const e of all("text", figure)) {
      if (reaches(e, box, 3)) fault("outside of its figure", e);
      if (contrast(getComputedStyle(e).fill, e) < 4.5) fault("too faint", e);
    }
    for (const e of all("path", figure)) {
      const look = getComputedStyle(e);
      const drawn = look.stroke !== "none" && look.strokeOpacity === "1";
      const line = drawn && parseFloat(look.strokeWidth) >= 1.5;
      if (line && contrast(look.stroke, e) < 3) fault(`too faint a line, ${look.stroke}`, figure);
    }
  }
  for (const tiles of all(".answers, .parts")) {
    const box = tiles.getBoundingClientRect(), ends = {};
    for (const one of tiles.children) {
      const { top, right } = one.getBoundingClientRect();
      ends[top] = Math.max(ends[top] || 0, right);
    }
    if (Object.values(ends).some((end) => end < box.right - 2)) fault("an empty tile", tiles);
  }
  let level = 0;
  for (const e of all("h1, h2, h3")) {
    if (e.tagName[1] > level + 1) fault("a heading out of order", e);
    level = +e.tagName[1];
  }
  all("table").filter((e) => !all("th", e).length).forEach((e) => fault("no headers", e));
  all("th").filter((e) => !e.textContent.trim()).forEach((e) => fault("an empty header", e));
  all("[role=img]:not([aria-label])").forEach((e) => fault("no alternative text", e));
  return [...found];
})()
"""
"""What is amiss with a page: what is wider than it, cut, empty, or too faint (WCAG AA)."""


class Browser:
    """Chromium, spoken to over a pipe in its own protocol."""

    def __init__(self, program: str, profile: str) -> None:
        (heard, said), (answered, answer) = os.pipe(), os.pipe()
        told = [program, *QUIET, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        dup, quiet = os.POSIX_SPAWN_DUP2, (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)
        files = [(dup, heard, 3), (dup, answer, 4), quiet]  # it reads from 3 and writes to 4
        self._process = os.posix_spawn(program, told, os.environ, file_actions=files)
        os.close(heard)
        os.close(answer)
        self._said, self._answered = os.fdopen(said, "wb"), os.fdopen(answered, "rb")
        self._buffer, self._number, self._session = b"", 0, ""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.ask("Page.enable")

    def close(self) -> None:
        """End it."""
        self._said.close()
        self._answered.close()
        os.kill(self._process, signal.SIGTERM)
        os.waitpid(self._process, 0)

    def ask(self, method: str, **given: Any) -> dict[str, Any]:
        """Send a command and wait for what it answers."""
        self._number += 1
        asked: dict[str, Any] = {"id": self._number, "method": method, "params": given}
        asked |= {"sessionId": self._session} if self._session else {}
        self._said.write(json.dumps(asked).encode() + b"\0")
        self._said.flush()
        found: dict[str, Any] = self._until(lambda one: one.get("id") == self._number)["result"]
        return found

    def _until(self, wanted: Any) -> dict[str, Any]:
        while True:
            while b"\0" not in self._buffer:
                part = os.read(self._answered.fileno(), 1 << 20)
                if not part:
                    raise RuntimeError("Chromium has ended")
                self._buffer += part
            text, self._buffer = self._buffer.split(b"\0", 1)
            found: dict[str, Any] = json.loads(text)
            if "error" in found:
                raise RuntimeError(found["error"]["message"])
            if wanted(found):
                return found

    def show(self, page: Path, width: int, scheme: str, medium: str = "screen") -> None:
        """Load a page into a window of a width."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        scheme_of = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", media=medium, features=scheme_of)
        self.ask("Page.navigate", url=page.resolve().as_uri())
        self._until(lambda one: one.get("method") == "Page.loadEventFired")

    def measure(self, script: str) -> Any:
        """What an expression is, in the page that is shown."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        return found["result"].get("value")

    def picture(self) -> list[bytes]:
        """The whole page as PNGs, one below the other."""
        height = self.measure("document.documentElement.scrollHeight")
        width = self.measure("document.documentElement.clientWidth")
        found = []
        for top in range(0, height, HIGHEST):
            size = {"width": width, "height": min(HIGHEST, height - top), "scale": 1}
            clip = {"x": 0, "y": top, **size}
            shot = self.ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
            found.append(base64.b64decode(shot["data"]))
        return found


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """The system's Chromium; a FileNotFoundError if there is none."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        raise FileNotFoundError(f"none of {', '.join(PROGRAMS)} is installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        shown = Browser(program, profile)
        try:
            yield shown
        finally:
            shown.close()


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("pages", type=Path, nargs="+", metavar="PAGE.html")
    parser.add_argument("--width", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--scheme", nargs="+", choices=SCHEMES, default=SCHEMES)
    parser.add_argument("--medium", choices=("screen", "print"), default="screen")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with browser() as chromium:
        for page, width, scheme in itertools.product(given.pages, given.width, given.scheme):
            chromium.show(page, width, scheme, given.medium)
            name = page.stem if page.stem != "report" else page.resolve().parent.name
            for place, picture in enumerate(chromium.picture()):
                path = given.folder / f"{name}-{width}-{scheme}{f'-{place + 1}' * bool(place)}.png"
                path.write_bytes(picture)
                print(path)
            for fault in chromium.measure(FAULTS):  # which unfolds what is folded
                print(f"{page} at {width}, {scheme}: {fault}")


if __name__ == "__main__":
    main()
