"""An audit as the page gets it: written by hand after the schema, with something of everything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.report.pages import poisoned


def audit_of() -> dict[str, Any]:
    """An audit with a model, with findings of each verdict, in English and Chinese."""
    path = Path(__file__).parent / "audit.json"
    audit: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return audit


def finding(check: str, title: str, verdict: str, count: int, of: int = 10112) -> dict[str, Any]:
    """A finding without words."""
    return {
        "check": check,
        "title": title,
        "verdict": verdict,
        "count": count,
        "of": of,
        "share": count / of if of else 0.0,
        "says": "",
        "do": "",
        "examples": [],
        "figures": {},
    }


def planted(audit: dict[str, Any], text: str) -> dict[str, Any]:
    """The same audit with a text in every place that data or a user can name."""
    wild: dict[str, Any] = poisoned(audit, text)
    names = ("verdict", "unit")
    wild |= {name: audit[name] for name in names}
    for found, tame in zip(wild["findings"], audit["findings"], strict=True):
        found["verdict"] = tame["verdict"]
        found["check"] = f"{tame['check']} {text}"
        found["do"] = f"`{text}` {text} orpo data fix --drop {text}"
        found["figures"] = {text: 0.5}
    wild["languages"] = {text: 3, f"{text} 2": 1}
    wild["turns"] = {text: 3, f"{text} 2": 1}
    wild["budget"] = {**audit["budget"], text: 3.0}
    wild["rows"]["dropped"] = {text: 128}
    wild["rows"]["dropped_examples"] = {text: [{"where": text, "detail": text}]}
    wild["rows"]["cut"] = {text: 3}
    return wild
