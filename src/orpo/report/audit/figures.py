"""Every picture with its words: what it shows, how to read it, the numbers behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orpo.report.audit.pictures import draw_bias, draw_lengths, draw_limits
from orpo.report.audit.reading import (
    Account,
    Finding,
    Limit,
    Spread,
    biases,
    limits,
    spreads,
)
from orpo.report.audit.words import (
    balance_seen,
    bias_seen,
    lengths_seen,
    limits_seen,
    repeats_seen,
    turns_seen,
)
from orpo.report.captions import Legend
from orpo.report.values import as_percent, lasting, mapping, whole

__all__ = ["Bar", "Chart", "Picture", "Table", "charts", "pictures"]

_REPEATS = ("duplicate", "leak", "identical")
_MOST_BARS = 10


@dataclass(frozen=True)
class Table:
    """The numbers of a picture: column names, then rows of the same width."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A curve and the words that go with it.

    Attributes:
        title: Heading.
        seen: What it shows in this data set, computed.
        reading: How to read it, and when to worry.
        svg: The figure.
        legend: Its curves.
        table: Its numbers.
    """

    title: str
    seen: str
    reading: str
    svg: str
    legend: tuple[Legend, ...]
    table: Table


@dataclass(frozen=True)
class Bar:
    """One bar: its name, how many, their share, and the width in percent of the widest."""

    label: str
    count: str
    share: str
    width: str


@dataclass(frozen=True)
class Chart:
    """Bars and the words that go with them.

    Attributes:
        title: Heading.
        of: What the names are: the head of their column.
        seen: What they show in this data set, computed.
        reading: How to read them, and when to worry.
        bars: From top to bottom.
    """

    title: str
    of: str
    seen: str
    reading: str
    bars: tuple[Bar, ...]


def pictures(audit: dict[str, Any], found: list[Finding], rows: Account) -> list[Picture]:
    """The curves for which there is something to draw."""
    unit = "tokens" if audit.get("unit") == "tokens" else "characters"
    made = (
        _lengths(spreads(audit.get("lengths")), unit),
        _bias(audit.get("length_bias"), found),
        _limits(audit, rows),
    )
    return [one for one in made if one is not None]


def charts(audit: dict[str, Any], found: list[Finding]) -> list[Chart]:
    """The bars for which there is something to draw."""
    made = (_repeats(found), _languages(audit.get("languages")), _turns(audit.get("turns")))
    return [one for one in made if one is not None]


def _lengths(found: list[Spread], unit: str) -> Picture | None:
    if not found or any(one.edges != found[0].edges for one in found):
        return None
    signs = {"prompt": ("muted", "solid"), "rejected": ("rejected", "dashed")}
    return Picture(
        title="Lengths",
        seen=lengths_seen(found, unit),
        reading="How common each length is, prompts above, answers below; triangles mark the "
        "medians. Worry if the two kinds of answers stand apart: length alone then tells which one "
        "is preferred.",
        svg=draw_lengths(found, unit),
        legend=tuple(Legend(o.part, *signs.get(o.part, ("chosen", "solid"))) for o in found),
        table=Table(
            (f"Quantiles, {unit}", "10 %", "50 %", "90 %", "99 %"),
            tuple(
                (o.part, *(f"{o.quantile(share):,.0f}" for share in (0.1, 0.5, 0.9, 0.99)))
                for o in found
            ),
        ),
    )


def _bias(value: object, found: list[Finding]) -> Picture | None:
    bias = biases(value)
    if not bias:
        return None
    aucs = [one.figures["auc"] for one in found if "auc" in one.figures]
    return Picture(
        title="Length bias",
        seen=bias_seen(bias, aucs[0] if len(aucs) == 1 else None),
        reading="How often the longer answer is the chosen one, by how much longer it is; the "
        "dotted line is a coin toss. Worry if the curve climbs: the model would learn to write "
        "more, not better.",
        svg=draw_bias(bias),
        legend=(Legend("longer answer chosen", "chosen", "solid"),),
        table=Table(
            ("Times as long", "Pairs", "Longer chosen"),
            tuple((_span(o.low, o.high), f"{o.pairs:,}", as_percent(o.share)) for o in bias),
        ),
    )


def _limits(audit: dict[str, Any], rows: Account) -> Picture | None:
    found = limits(audit.get("truncation"))
    total = _measured(audit, rows, found)
    if not found or not total:
        return None
    chosen = whole(audit.get("max_length")) or None
    marked = (Legend(f"max_length {chosen:,}", "ink", "┊"),) if chosen else ()
    return Picture(
        title="What a limit would cut",
        seen=limits_seen(found, total, chosen),
        reading="The share of the pairs that each max_length would cut or drop. A cut answer "
        "teaches the model to stop in the middle: choose a limit to the right of the bend.",
        svg=draw_limits(found, total, chosen),
        legend=(Legend("cut", "nll", "solid"), Legend("dropped", "ink", "dashed"), *marked),
        table=Table(
            ("max_length", "Cut", "Dropped", "Untouched"),
            tuple(
                (f"{o.max_length:,}", f"{o.cut:,}", f"{o.dropped:,}", _whole_share(o, total))
                for o in found
            ),
        ),
    )


def _measured(audit: dict[str, Any], rows: Account, found: list[Limit]) -> int:
    """How many pairs limits were tried on: those whose lengths were counted, a sample maybe."""
    counted = max((one.total for one in spreads(audit.get("lengths"))), default=rows.kept)
    return max([counted, *(one.cut + one.dropped for one in found)])


def _whole_share(limit: Limit, total: int) -> str:
    return as_percent(max(0.0, 1 - (limit.cut + limit.dropped) / total))


def _span(low: float, high: float | None) -> str:
    return f"{low:.3g} and more" if high is None else f"{low:.3g} to {high:.3g}"


def _repeats(found: list[Finding]) -> Chart | None:
    told = [one for one in found if one.of and any(word in one.check for word in _REPEATS)]
    if not told:
        return None
    widest = max(one.share for one in told)
    return Chart(
        title="Repetition",
        of="Kind",
        seen=repeats_seen(told),
        reading="A pair that is there twice counts twice, and one that is also in the evaluation "
        "data makes its result worthless.",
        bars=tuple(_bar(one.title, one.count, one.share, widest) for one in told),
    )


def _languages(value: object) -> Chart | None:
    counts = _counted(value)
    if not counts:
        return None
    return Chart(
        title="Languages",
        of="Language",
        seen=balance_seen(counts),
        reading="Told by the script of every prompt that could be read. A language with few pairs "
        "is aligned by what the others teach.",
        bars=_bars(dict(sorted(counts.items(), key=lambda item: -item[1]))),
    )


def _turns(value: object) -> Chart | None:
    counts = _counted(value)
    if not counts:
        return None
    order = sorted(counts, key=lambda name: (len(name), name))
    return Chart(
        title="Turns of the prompt",
        of="Turns",
        seen=turns_seen(counts),
        reading="Conversations of a length that is rare here are learned from the others.",
        bars=_bars({name: counts[name] for name in order}),
    )


def _counted(value: object) -> dict[str, int]:
    counts = {lasting(name, 60): whole(one) for name, one in mapping(value).items()}
    return {name: count for name, count in counts.items() if count}


def _bars(counts: dict[str, int]) -> tuple[Bar, ...]:
    """A bar for each, those beyond the first few put together."""
    names = list(counts)
    shown = names if len(names) <= _MOST_BARS else names[: _MOST_BARS - 1]
    kept = {name: counts[name] for name in shown}
    rest = names[len(shown) :]
    if rest:
        kept[f"{len(rest)} others"] = sum(counts[name] for name in rest)
    total, widest = sum(counts.values()), max(kept.values())
    return tuple(_bar(name, n, n / total, widest / total) for name, n in kept.items())


def _bar(label: str, count: int, share: float, widest: float) -> Bar:
    shown = "< 0.1\u00a0%" if 0 < share < 0.0005 else as_percent(share)
    return Bar(label, f"{count:,}", shown, f"{100 * share / widest if widest else 0:.2f}")
