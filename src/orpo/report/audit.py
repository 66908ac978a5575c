"""The page of a data audit: findings, pictures, costs, rows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orpo.report.audit_figures import audit_figures
from orpo.report.page import Page, Words
from orpo.report.values import as_share, joined, lowered, shortened

if TYPE_CHECKING:
    from orpo.audit.findings import Audit, Finding

_VERDICTS = ("stop", "look", "ok")
_MOST_BARS = 10
_REPEATS = ("duplicate", "leak", "identical")
_FLAGS = r"--[a-z][\w-]*(?: \d+(?:\.\d+)?| length\b| near\b)?"
_COMMAND = re.compile(rf"(`[^`]+`|\borpo data [a-z]+(?: {_FLAGS})*|(?<!\S){_FLAGS})")
_KNOWN = (
    *("pairs", "prompt_tokens", "chosen_tokens", "rejected_tokens", "nll_tokens"),
    *("tokens_per_epoch", "positions_per_epoch", "padded_positions_per_epoch"),
    *("tokens_per_second", "seconds_per_epoch", "peak_bytes"),
)
"""Of the costs of an epoch, in the order of the page."""


@dataclass(frozen=True)
class Bar:
    """One bar: its name, how many, their share, and the width in percent of the widest."""

    label: str
    count: str
    share: str
    width: str


@dataclass(frozen=True)
class Chart:
    """Bars from top to bottom: what their names are, what they show, how to read them."""

    title: str
    of: str
    seen: str
    reading: str
    bars: Sequence[Bar]


def audit_page(audit: Audit) -> Page:
    """The page of an audit; what it does not know is left out."""
    found = sorted(audit.findings, key=lambda one: _VERDICTS.index(one.verdict))
    by_verdict = {name: [one for one in found if one.verdict == name] for name in _VERDICTS}
    budget = {name: cost for name, cost in audit.budget.items() if math.isfinite(cost)}
    others = {name: cost for name, cost in budget.items() if name not in _KNOWN}
    given = {"audit": audit, "rows": audit.rows, "budget": budget, "others": others}
    words = Words("audit", **by_verdict, **given, known=_KNOWN, named=_named)
    return Page(
        kicker="Data audit",
        title=shortened(audit.dataset, 160),
        verdict=words["headline"],
        facts=[(label, shortened(value, 160)) for label, value in words.facts()],
        figures=list(audit_figures(audit)),
        more={
            "remainder": words["remainder"],
            "tally": {verdict: len(some) for verdict, some in by_verdict.items() if some},
            "findings": found,
            "charts": list(_charts(audit, found)),
            "budget": words.lines("costs"),
            "budget_seen": words["budget"],
            "rows": audit.rows,
            "lost": sum(audit.rows.dropped.values()),
            "notes": audit.notes,
            "pieces": _pieces,
        },
        template="audit.html.jinja",
    )


def _named(found: Sequence[Finding]) -> str:
    more = len(found) - 3
    names = [lowered(one.title) for one in found[:3]]
    return joined([*names, *([f"{more} more"] if more > 0 else [])])


def _pieces(text: str) -> list[tuple[str, str]]:
    """Text taken apart at commands and flags: ("text" or "code", what it says)."""
    parts = _COMMAND.split(text)
    kinds = ("text", "code")
    return [(kinds[i % 2], part.strip("`" * (i % 2))) for i, part in enumerate(parts) if part]


def _charts(audit: Audit, found: Sequence[Finding]) -> Iterator[Chart]:
    """The bars for which there is something to draw."""
    repeats = [one for one in found if one.of and any(word in one.check for word in _REPEATS)]
    if repeats:
        yield _repeats(repeats)
    languages = {shortened(name, 60): n for name, n in audit.languages.items() if n > 0}
    if languages:
        groups = sorted(languages.items(), key=lambda item: -item[1])
        words = Words("audit", groups=groups, all=sum(languages.values()))
        reading = (
            "Told by the script of every prompt that could be read. A language with few pairs is "
            "aligned by what the others teach."
        )
        yield Chart("Languages", "Language", words["languages"], reading, _bars(dict(groups)))
    turns = {shortened(name, 60): n for name, n in audit.turns.items() if n > 0}
    if turns:
        counts = [int(name) for name in turns if name.isascii() and name.isdecimal()]
        single = turns.get("1", 0) / sum(turns.values())
        words = Words("audit", single=single, longest=max(counts, default=0))
        order = sorted(turns, key=lambda name: (len(name), name))
        reading = "Conversations of a length that is rare here are learned from the others."
        bars = _bars({name: turns[name] for name in order})
        yield Chart("Turns of the prompt", "Turns", words["turns"], reading, bars)


def _repeats(found: Sequence[Finding]) -> Chart:
    there = [one for one in found if one.count]
    widest = max(one.share for one in found)
    words = Words(
        "audit",
        there=there,
        most=max(there, key=lambda one: one.share, default=None),
        absent=[lowered(one.title) for one in found if not one.count],
    )
    reading = (
        "A pair that is there twice counts twice, and one that is also in the evaluation data "
        "makes its result worthless."
    )
    bars = [_bar(one.title, one.count, one.share, widest) for one in found]
    return Chart("Repetition", "Kind", words["repeats"], reading, bars)


def _bars(counts: Mapping[str, int]) -> list[Bar]:
    """A bar for each, those beyond the first few put together."""
    names = list(counts)
    shown = names if len(names) <= _MOST_BARS else names[: _MOST_BARS - 1]
    kept = {name: counts[name] for name in shown}
    rest = names[len(shown) :]
    if rest:
        kept[f"{len(rest)} others"] = sum(counts[name] for name in rest)
    total, widest = sum(counts.values()), max(kept.values())
    return [_bar(name, n, n / total, widest / total) for name, n in kept.items()]


def _bar(label: str, count: int, share: float, widest: float) -> Bar:
    width = f"{100 * share / widest if widest else 0:.2f}"
    return Bar(label, f"{count:,}", as_share(share), width)
