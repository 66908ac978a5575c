"""The page of a data audit: findings, pictures, costs, rows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orpo.report.audit_figures import audit_figures
from orpo.report.page import Page, Words
from orpo.report.values import as_duration, as_number, as_share, joined, lowered, shortened

if TYPE_CHECKING:
    from orpo.audit.findings import Audit, Example, Finding
    from orpo.data.types import Ledger

_VERDICTS = ("stop", "look", "ok")
_LONGEST = 600
_MOST_BARS = 10
_REPEATS = ("duplicate", "leak", "identical")
_FLAGS = r"--[a-z][\w-]*(?: \d+(?:\.\d+)?| length\b| near\b)?"
_COMMAND = re.compile(rf"(`[^`]+`|\borpo data [a-z]+(?: {_FLAGS})*|(?<!\S){_FLAGS})")
_BUDGET = {
    "pairs": ("Pairs", "those that the limit leaves"),
    "prompt_tokens": ("Tokens of prompts", ""),
    "chosen_tokens": ("Tokens of chosen answers", ""),
    "rejected_tokens": ("Tokens of rejected answers", ""),
    "nll_tokens": ("Tokens in the NLL term", ""),
    "tokens_per_epoch": ("Tokens per epoch", "both sequences of a pair, each with its prompt"),
    "positions_per_epoch": (
        "Positions per epoch",
        "what the engine computes: a shared beginning only once",
    ),
    "padded_positions_per_epoch": ("Positions if padded", "in batches of four, without sharing"),
    "tokens_per_second": ("Tokens per second", "the rate that the engine was measured at"),
    "seconds_per_epoch": ("Time per epoch", "estimated from that rate"),
    "peak_bytes": ("Peak memory", "estimated"),
}


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
    found = sorted(map(_short, audit.findings), key=lambda one: _VERDICTS.index(one.verdict))
    by_verdict = {
        verdict: [one for one in found if one.verdict == verdict] for verdict in _VERDICTS
    }
    budget = {name: cost for name, cost in audit.budget.items() if math.isfinite(cost)}
    words = Words("audit", **by_verdict, named=_named, budget=budget)
    rows = audit.rows
    return Page(
        kicker="Data audit",
        title=shortened(audit.dataset, 160),
        verdict=words["headline"],
        facts=[(label, shortened(value, 160)) for label, value in _facts(audit) if value],
        figures=list(audit_figures(audit)),
        more={
            "remainder": words["remainder"],
            "tally": {verdict: len(some) for verdict, some in by_verdict.items() if some},
            "findings": found,
            "charts": list(_charts(audit, found)),
            "budget": _costs(budget),
            "budget_seen": words["budget"],
            "rows": rows,
            "lost": sum(rows.dropped.values()),
            "dropped": _dropped(rows),
            "notes": [shortened(note, 400) for note in audit.notes],
            "pieces": _pieces,
        },
        template="audit.html.jinja",
    )


def _short(one: Finding) -> Finding:
    """A finding whose texts fit on a page."""
    return replace(
        one,
        title=shortened(one.title, 120),
        says=shortened(one.says, _LONGEST),
        do=shortened(one.do, _LONGEST),
        examples=tuple(map(_short_example, one.examples)),
    )


def _short_example(one: Example) -> Example:
    where, other = shortened(one.where, 200), shortened(one.other, 200)
    return replace(one, where=where, text=shortened(one.text, _LONGEST), other=other)


def _named(found: Sequence[Finding]) -> str:
    more = len(found) - 3
    names = [lowered(one.title) for one in found[:3]]
    return joined([*names, *([f"{more} more"] if more > 0 else [])])


def _facts(audit: Audit) -> Iterator[tuple[str, str]]:
    """What was audited, in a few entries."""
    rows = audit.rows
    if rows.rows_in:
        lost = sum(rows.dropped.values())
        yield "Rows", f"{rows.rows_in:,} = {rows.kept:,} kept + {lost:,} dropped"
    yield "Format", rows.format
    yield "Rendering", rows.rendering
    yield "Tokenizer", audit.model or "none: lengths are in characters"
    yield "Length limit", f"{audit.max_length:,}" if audit.max_length else ""
    yield "Evaluation data", audit.eval_dataset


def _dropped(rows: Ledger) -> list[tuple[str, int, list[str]]]:
    """Reason, rows, and the first places to look; the most frequent reason first."""
    return [
        (
            reason,
            n,
            [
                shortened(": ".join(filter(None, (one.where, one.detail))), 400)
                for one in rows.examples.get(reason, ())
            ],
        )
        for reason, n in sorted(rows.dropped.items(), key=lambda item: -item[1])
    ]


def _costs(budget: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Label, value, meaning of what is known about the cost of an epoch."""
    names = sorted(budget, key=lambda name: [*_BUDGET, name].index(name))
    told = {name: _BUDGET.get(name, (name.replace("_", " "), "")) for name in names}
    return [(told[name][0], _cost(name, budget[name]), told[name][1]) for name in names]


def _cost(name: str, value: float) -> str:
    if name == "seconds_per_epoch":
        return as_duration(value).replace(" ", "\u00a0")
    if name == "peak_bytes":
        return f"{value / 2**30:.1f}\u00a0GiB"
    return f"{value:,.0f}" if name in _BUDGET else as_number(value)


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
