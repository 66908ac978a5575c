"""Pages as a browser reads them, texts that would do harm there, and an audit that holds both."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

HOSTILE = (
    "\"'><script>alert(1)</script></details></style></title>-->]]>"
    '<img src=x onerror=alert(1)><a href="javascript:alert(1)">\'"&amp;&lt;{{ 7*7 }}{% x %}$\\frac$'
)
VOID = {"meta", "link", "img", "br", "hr", "input"}
BLOCKS = {
    *("article", "caption", "dd", "dt", "figure", "h1", "h2", "h3", "li", "p", "summary"),
    *("td", "th", "tr"),
}


class Page(HTMLParser):
    """What a browser would make of a page: elements, attributes, text by element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.misnested: list[str] = []
        self.texts: list[str] = []
        self.apart: list[str] = []  # as `texts`, without figures, and with borders of blocks
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.apart += ["\n"] * (tag in BLOCKS)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        self.apart += ["\n"] * (tag in BLOCKS)
        if not self.open or self.open.pop() != tag:
            self.misnested.append(tag)

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)
            self.apart += [data] * ("svg" not in self.open)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).replace("\u00a0", " ").split())

    @property
    def lines(self) -> list[str]:
        """The text of each block, without what stands in figures."""
        parts = "".join(self.apart).replace("\u00a0", " ").split("\n")
        return [line for line in (" ".join(part.split()) for part in parts) if line]

    def values(self, name: str) -> list[str]:
        """Those of all attributes of a name."""
        return [value for _, key, value in self.attributes if key == name]

    @property
    def live(self) -> list[str]:
        """Everything that could run or load something."""
        found = [tag for tag in self.tags if tag in ("script", "iframe", "object", "img", "link")]
        for _, name, value in self.attributes:
            inner = name.endswith("href") and value.startswith("#")
            if name.startswith("on") or (name in ("href", "xlink:href", "src") and not inner):
                found.append(f"{name}={value}")
            if name == "style" and ("url(" in value and "url(#" not in value):
                found.append(value)
        return found


def assert_complete(page: Page) -> None:
    """It needs nothing outside of itself, and can be read without seeing it."""
    assert page.live == page.misnested == page.open == []
    found, shown = (re.findall(r"https?://[^\s\"'<]+", one) for one in (page.source, page.text))
    assert set(found) - set(shown) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in page.source
    assert "default-src 'none'" in page.source
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert set(page.values("aria-labelledby")) <= set(ids)
    assert page.tags.count("h1") == 1


def assert_inert(make: Callable[[str], Page], least: int) -> Page:
    """The page of hostile texts is built as that of harmless ones, and shows them all."""
    words = " ".join(f"harmless{n}" for n, _ in enumerate(HOSTILE.split()))
    tame, wild = (make(text) for text in (words, HOSTILE))
    assert wild.live == wild.misnested == []
    assert wild.tags == tame.tags
    kinds = [[one[:2] for one in page.attributes] for page in (tame, wild)]
    assert kinds[0] == kinds[1]
    assert wild.text.count("alert(1)") > least
    assert "{{ 7*7 }}{% x %}" in wild.text
    return wild


def poisoned(value: Any, poison: str) -> Any:
    """The same structure with every text replaced."""
    if isinstance(value, list):
        return [poisoned(one, poison) for one in value]
    if isinstance(value, dict):
        return {key: poisoned(one, poison) for key, one in value.items()}
    return poison if isinstance(value, str) else value


def audit_of() -> dict[str, Any]:
    """An audit with a model, with findings of each verdict, in English and Chinese."""
    path = Path(__file__).parent / "audit.json"
    audit: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return audit


def finding(check: str, title: str, verdict: str, count: int, of: int = 10112) -> dict[str, Any]:
    """A finding without words."""
    return {
        **{"check": check, "title": title, "verdict": verdict, "count": count, "of": of},
        **{"share": count / of, "says": "", "do": "", "examples": [], "figures": {}},
    }


def planted(audit: dict[str, Any], text: str) -> dict[str, Any]:
    """The same audit with a text in every place that data or a user can name."""
    wild: dict[str, Any] = poisoned(audit, text)
    wild |= {name: audit[name] for name in ("verdict", "unit")}
    for found, tame in zip(wild["findings"], audit["findings"], strict=True):
        found |= {"verdict": tame["verdict"], "check": f"{tame['check']} {text}"}
        found |= {"do": f"`{text}` {text} orpo data fix --drop {text}", "figures": {text: 0.5}}
    wild |= {name: {text: 3, f"{text} 2": 1} for name in ("languages", "turns")}
    wild["budget"] = {**audit["budget"], text: 3.0}
    wild["rows"] |= {"dropped": {text: 128}, "cut": {text: 3}}
    wild["rows"]["dropped_examples"] = {text: [{"where": text, "detail": text}]}
    return wild
