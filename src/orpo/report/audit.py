"""The page of a data audit: findings, pictures, costs, rows; what it does not know is left out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib import ticker

from orpo.quantities import as_percent, joined, lowered, thousands
from orpo.report import style
from orpo.report.page import Figure, Page, Table, Words
from orpo.report.style import COLOURS, DASHED, DOTTED, percent
from orpo.report.values import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from orpo.audit.findings import Audit, Bias, Finding, Histogram, Limit

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
_PARTS = {
    "prompt": ("muted", "solid"),
    "chosen": ("chosen", "solid"),
    "rejected": ("rejected", DASHED),
}
"""Colour and line of each part of a pair."""
_NEARLY_ALL = 0.995


class Chart(NamedTuple):
    """Bars from top to bottom: what their names are, what they show, how to read them."""

    title: str
    of: str
    seen: str
    reading: str
    bars: Sequence[tuple[str, int, float]]  # name, how many, and their share of all


def audit_page(audit: Audit) -> Page:
    """The page of an audit."""
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
        figures=list(_figures(audit)),
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
    parts = enumerate(_COMMAND.split(text))
    return [(("text", "code")[i % 2], part.strip("`" * (i % 2))) for i, part in parts if part]


# Bars


def _charts(audit: Audit, found: Sequence[Finding]) -> Iterator[Chart]:
    """Those for which there is something to draw."""
    repeats = [one for one in found if one.of and any(word in one.check for word in _REPEATS)]
    if repeats:
        there = [one for one in repeats if one.count]
        most = max(there, key=lambda one: one.share, default=None)
        absent = [lowered(one.title) for one in repeats if not one.count]
        bars = [(one.title, one.count, one.share) for one in repeats]
        yield _chart("Repetition", "Kind", "repeats", bars, there=there, most=most, absent=absent)
    languages = {shortened(name, 60): n for name, n in audit.languages.items() if n > 0}
    if languages:
        groups = sorted(languages.items(), key=lambda item: -item[1])
        everyone = sum(languages.values())
        bars = _grouped(dict(groups))
        yield _chart("Languages", "Language", "languages", bars, groups=groups, all=everyone)
    turns = {shortened(name, 60): n for name, n in audit.turns.items() if n > 0}
    if turns:
        counts = [int(name) for name in turns if name.isascii() and name.isdecimal()]
        single, longest = turns.get("1", 0) / sum(turns.values()), max(counts, default=0)
        bars = _grouped({n: turns[n] for n in sorted(turns, key=lambda name: (len(name), name))})
        yield _chart("Turns of the prompt", "Turns", "turns", bars, single=single, longest=longest)


def _chart(
    title: str, of: str, block: str, bars: Sequence[tuple[str, int, float]], **given: Any
) -> Chart:
    words = Words("audit", **given)
    return Chart(title, of, words[block], words[f"{block}_reading"], bars)


def _grouped(counts: Mapping[str, int]) -> list[tuple[str, int, float]]:
    """A bar for each, those beyond the first few put together."""
    names, total = list(counts), sum(counts.values())
    shown = names if len(names) <= _MOST_BARS else names[: _MOST_BARS - 1]
    bars = [(name, counts[name], counts[name] / total) for name in shown]
    if rest := names[len(shown) :]:
        left = sum(counts[name] for name in rest)
        bars.append((f"{len(rest)} others", left, left / total))
    return bars


# Curves: lengths, what length gives away, what a limit would cut


def _figures(audit: Audit) -> Iterator[Figure]:
    """Those for which there is something to draw."""
    spreads = {
        part: spread
        for part in _PARTS
        if (spread := audit.lengths.get(part)) is not None and any(spread.counts)
    }
    if spreads:
        yield _lengths(spreads, "tokens" if audit.unit == "tokens" else "characters")
    if any(one.longer_chosen is not None for one in audit.length_bias):
        yield _bias(audit.length_bias)
    counted = max((sum(one.counts) for one in spreads.values()), default=audit.rows.kept)
    total = max([counted, *(one.cut + one.dropped for one in audit.truncation)])
    if audit.truncation and total:
        yield _limits(audit.truncation, total, audit.max_length)


def _figure(
    name: str,
    title: str,
    height: float,
    paint: Callable[[Canvas], None],
    numbers: Table,
    **given: Any,
) -> Figure:
    words = Words("audit", **given)
    reading = words[f"{name}_reading"]
    return Figure(name, title, words[name], (5.8, height), paint, reading, numbers)


def _lengths(spreads: Mapping[str, Histogram], unit: str) -> Figure:
    middles = {part: quantile(one, 0.5) for part, one in spreads.items()}
    lines = [
        (part, *(thousands(quantile(one, share)) for share in (0.1, 0.5, 0.9, 0.99)))
        for part, one in spreads.items()
    ]
    numbers = Table("", (f"Quantiles, {unit}", "10 %", "50 %", "90 %", "99 %"), lines)
    height, paint = 3.9 if len(spreads) > 1 else 2.6, partial(_paint_lengths, spreads, unit)
    return _figure("lengths", "Lengths", height, paint, numbers, unit=unit, middles=middles)


def _bias(every: Sequence[Bias]) -> Figure:
    told = [one for one in every if one.longer_chosen is not None]
    pairs = sum(one.pairs for one in told)
    given = {
        **{"told": told, "pairs": pairs},
        "overall": sum(one.pairs * (one.longer_chosen or 0) for one in told) / pairs,
    }
    lines = [
        (
            f"{one.low:.3g} and more" if one.high is None else f"{one.low:.3g} to {one.high:.3g}",
            f"{one.pairs:,}",
            as_percent(one.longer_chosen),
        )
        for one in every
    ]
    numbers = Table("", ("Times as long", "Pairs", "Longer chosen"), lines)
    return _figure("bias", "Length bias", 3.6, partial(_paint_bias, every), numbers, **given)


def _limits(limits: Sequence[Limit], total: int, max_length: int | None) -> Figure:
    given = {
        **{"limits": limits, "total": total},
        "here": next((one for one in limits if one.max_length == max_length), None),
        "enough": next((one for one in limits if one.cut + one.dropped < 0.01 * total), None),
    }
    lines = [
        (
            *(f"{n:,}" for n in (one.max_length, one.cut, one.dropped)),
            as_percent(max(0.0, 1 - (one.cut + one.dropped) / total)),
        )
        for one in limits
    ]
    numbers = Table("", ("max_length", "Cut", "Dropped", "Untouched"), lines)
    paint = partial(_paint_limits, limits, total, max_length)
    return _figure("limits", "What a limit would cut", 3.5, paint, numbers, **given)


def quantile(spread: Histogram, share: float) -> float:
    """The length that a share of all stay below, as well as ranges can tell."""
    left = share * sum(spread.counts)
    for (low, high), count in zip(pairwise(spread.edges), spread.counts, strict=True):
        if count and left <= count:
            return low + (high - low) * left / count
        left -= count
    return spread.edges[-1]


def _paint_lengths(spreads: Mapping[str, Histogram], unit: str, canvas: Canvas) -> None:
    """The prompts above, both answers below, on one axis; a line at each median."""
    above = [part for part in spreads if part == "prompt"]
    below = [part for part in spreads if part != "prompt"]
    parts = [some for some in (above, below) if some]
    heights = [1 if some is above else 2 for some in parts]
    grid = canvas.subplots(len(parts), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, some in zip(grid, parts, strict=True):
        for part in some:
            _stairs(axes, part, spreads[part])
        axes.margins(y=0.08)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(ticker.NullLocator())  # shapes are compared, and areas
    _dress_lengths(grid[-1], list(spreads.values()))
    grid[-1].set_xlabel(unit)
    canvas.legend(loc="outside upper left", ncols=3)


def _stairs(axes: Axes, part: str, spread: Histogram) -> None:
    """Of such heights that areas are shares, on the axis that is used."""
    edges = list(spread.edges)
    spaced = _spaced(edges)
    if spaced and edges[0] <= 0:
        edges[0] = edges[1] / 2  # zero has no place on a logarithmic axis
    widths = [math.log2(high / low) if spaced else high - low for low, high in pairwise(edges)]
    total = sum(spread.counts)
    heights = [n / total / width for n, width in zip(spread.counts, widths, strict=True)]
    name, line = _PARTS[part]
    look = {"color": COLOURS[name], "linewidth": 1.6, "linestyle": line, "label": part}
    axes.stairs(heights, edges, fill=True, color=COLOURS[name], alpha=0.13, linewidth=0)
    axes.stairs(heights, edges, baseline=None, **look)
    middle = max(quantile(spread, 0.5), edges[0])
    mark = {"marker": "^", "markersize": 7.5, "clip_on": False, "zorder": 5}
    axes.plot([middle], [0], color=COLOURS[name], **mark)
    axes.axvline(middle, color=COLOURS[name], linewidth=1, linestyle=DOTTED)


def _dress_lengths(axes: Axes, spreads: Sequence[Histogram]) -> None:
    """From the shortest to nearly the longest: a few giants would hide all others."""
    edges = spreads[0].edges
    aims = ((one, quantile(one, _NEARLY_ALL)) for one in spreads)
    last = max(next((e for e in one.edges if e >= aim), one.edges[-1]) for one, aim in aims)
    if not _spaced(edges):
        axes.set_xlim(edges[0], last)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
    else:
        first = max(min(quantile(one, 0.001) for one in spreads), edges[1] / 2)
        axes.set_xscale("log")
        axes.set_xlim(first, last)
        low, high = math.floor(math.log10(first)), math.ceil(math.log10(last))
        tens = [10.0**n for n in range(low, high + 1)]
        seen = [ten * step for ten in tens for step in (1, 2, 5) if first <= ten * step <= last]
        coarse = [tick for tick in seen if tick in tens]
        axes.xaxis.set_major_locator(ticker.FixedLocator(seen if len(seen) <= 8 else coarse))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(thousands)


def _spaced(edges: Sequence[float]) -> bool:
    """Whether ranges grow, so that they belong on a logarithmic axis."""
    widths = [high - low for low, high in pairwise(edges)]
    return max(widths[1:-1] or widths) > 3 * min(widths[1:-1] or widths)


def _paint_bias(every: Sequence[Bias], canvas: Canvas) -> None:
    """How often the longer answer is chosen, and beneath it how many pairs say so."""
    curve, bars = canvas.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    heights = [math.nan if one.longer_chosen is None else one.longer_chosen for one in every]
    places, colour = range(len(every)), COLOURS["chosen"]
    curve.axhline(0.5, color=COLOURS["ink"], linewidth=1, linestyle=DOTTED)
    curve.fill_between(places, heights, 0.5, color=colour, alpha=0.09, linewidth=0)
    curve.plot(places, heights, color=colour, linewidth=1.9, marker="o", markersize=5.5)
    style.shares(curve)
    style.dress(curve.yaxis, "longer answer chosen")
    bars.bar(places, [one.pairs for one in every], 0.72, color=COLOURS["muted"], alpha=0.55)
    style.dress(bars.yaxis, "pairs", ticker.MaxNLocator(2, integer=True), thousands)
    borders = [*(one.low for one in every), every[-1].high]
    bars.set_xlim(-0.6, len(every) - 0.4)
    ticks = ticker.FixedLocator([i - 0.5 for i in range(len(borders))])
    names = ticker.FixedFormatter(["∞" if n is None else f"{n:.3g}" for n in borders])
    style.dress(bars.xaxis, "times as long as the shorter answer", ticks, names)


def _paint_limits(
    limits: Sequence[Limit], total: int, max_length: int | None, canvas: Canvas
) -> None:
    """The share of pairs that a limit cuts or drops, over the limit; the chosen limit marked."""
    axes = canvas.add_subplot()
    lengths = [one.max_length for one in limits]
    cut, dropped = (
        [min(1.0, getattr(one, kind) / total) for one in limits] for kind in ("cut", "dropped")
    )
    look = {"linewidth": 1.9, "marker": "o", "markersize": 4.5, "clip_on": False}
    axes.plot(lengths, cut, color=COLOURS["nll"], label="cut", **look)
    axes.plot(lengths, dropped, color=COLOURS["ink"], linestyle=DASHED, label="dropped", **look)
    axes.set_ylim(0, max(0.01, *cut, *dropped) * 1.12)
    style.dress(axes.yaxis, "", ticker.MaxNLocator(5, steps=[1, 2, 5, 10]), percent)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    step = math.ceil(len(lengths) / 7)
    ticks = ticker.FixedLocator(lengths[::-step][::-1])
    style.dress(axes.xaxis, "max_length, tokens", ticks, thousands)
    if len(lengths) == 1:
        axes.set_xlim(lengths[0] / 2, lengths[0] * 2)
    if max_length:
        mark = {"linewidth": 1, "linestyle": DOTTED, "label": f"max_length {max_length:,}"}
        axes.axvline(max_length, color=COLOURS["ink"], **mark)
    style.legend(canvas, axes.get_legend_handles_labels()[0])
