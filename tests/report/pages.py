"""Pages as a browser reads them, and texts that would do harm there."""

from __future__ import annotations

from html.parser import HTMLParser
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


def poisoned(value: Any, poison: str) -> Any:
    """The same structure with every text, every key that is data, replaced or extended."""
    if isinstance(value, str):
        return poison
    if isinstance(value, list):
        return [poisoned(one, poison) for one in value]
    if isinstance(value, dict):
        return {key: poisoned(one, poison) for key, one in value.items()}
    return value
