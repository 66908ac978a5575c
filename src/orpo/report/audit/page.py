"""The page of an audit: findings, pictures, costs, rows, put into one HTML file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from orpo.report.audit.figures import charts, pictures
from orpo.report.audit.reading import Account, Finding, account, findings, tally
from orpo.report.audit.words import budget_rows, budget_seen, headline, remainder
from orpo.report.template import rendered
from orpo.report.values import as_number, as_percent, lasting, mapping, number, rows, whole

__all__ = ["render_audit"]

_FLAGS = r"--[a-z][\w-]*(?: \d+(?:\.\d+)?| length\b| near\b)?"
_COMMAND = re.compile(rf"(`[^`]+`|\borpo data [a-z]+(?: {_FLAGS})*|(?<!\S){_FLAGS})")


def render_audit(audit: Mapping[str, Any]) -> str:
    """The page of an audit as HTML; the same audit gives the same text.

    Args:
        audit: What `Audit.as_dict` gives, or what was read from its JSON.
    """
    plain = json.loads(json.dumps(dict(audit)))
    found, ledger = findings(plain.get("findings")), account(plain.get("rows"))
    budget = _budget(plain.get("budget"))
    return rendered(
        "audit/audit.html.jinja",
        name=lasting(str(plain.get("dataset") or "data set"), 160),
        headline=headline(found),
        remainder=remainder(found),
        tally=tally(found),
        facts=_facts(plain, ledger),
        findings=found,
        pictures=pictures(plain, found, ledger),
        charts=charts(plain, found),
        budget=budget_rows(budget),
        budget_seen=budget_seen(budget),
        rows=ledger,
        notes=[lasting(str(note), 400) for note in rows(plain.get("notes"))],
        share=_share,
        figures=_figures,
        pieces=_pieces,
    )


def _facts(audit: dict[str, Any], ledger: Account) -> list[tuple[str, str]]:
    """What was audited, in a few entries."""
    model = str(audit.get("model") or "")
    limit = whole(audit.get("max_length"))
    entries = [
        ("Rows", _sum(ledger) if ledger.rows_in else ""),
        ("Format", ledger.format),
        ("Rendering", ledger.rendering),
        ("Tokenizer", model or "none: lengths are in characters"),
        ("Length limit", f"{limit:,}" if limit else ""),
        ("Evaluation data", str(audit.get("eval_dataset") or "")),
    ]
    return [(label, lasting(value, 160)) for label, value in entries if value]


def _sum(ledger: Account) -> str:
    return f"{ledger.rows_in:,} = {ledger.kept:,} kept + {ledger.lost:,} dropped"


def _budget(value: object) -> dict[str, float]:
    costs = {name: number(one) for name, one in mapping(value).items()}
    return {name: cost for name, cost in costs.items() if cost is not None and math.isfinite(cost)}


def _share(finding: Finding) -> str:
    return "< 0.1\u00a0%" if 0 < finding.share < 0.0005 else as_percent(finding.share)


def _figures(finding: Finding) -> list[tuple[str, str]]:
    return [
        (lasting(name.replace("_", " "), 60), as_number(value))
        for name, value in finding.figures.items()
    ]


def _pieces(text: str) -> list[tuple[str, str]]:
    """Text taken apart at commands and flags: ("text" or "code", what it says)."""
    parts = _COMMAND.split(text)
    kinds = ("text", "code")
    return [(kinds[i % 2], part.strip("`" * (i % 2))) for i, part in enumerate(parts) if part]
