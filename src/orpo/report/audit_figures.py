"""The curves of an audit: lengths, what length gives away, what a limit would cut."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from orpo.report.page import Figure, Table, Words
from orpo.report.style import COLOURS, DASHED, DOTTED, percent
from orpo.report.values import as_percent, thousands

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from orpo.audit.findings import Audit, Bias, Histogram, Limit

_PARTS = {
    "prompt": ("muted", "solid"),
    "chosen": ("chosen", "solid"),
    "rejected": ("rejected", DASHED),
}
"""Colour and line of each part of a pair."""
_NEARLY_ALL = 0.995


def audit_figures(audit: Audit) -> Iterator[Figure]:
    """Those for which there is something to draw."""
    spreads = {part: audit.lengths[part] for part in _PARTS if _any(audit.lengths.get(part))}
    if spreads:
        yield _lengths(spreads, "tokens" if audit.unit == "tokens" else "characters")
    told = [one for one in audit.length_bias if one.longer_chosen is not None]
    if told:
        aucs = [one.figures["auc"] for one in audit.findings if "auc" in one.figures]
        yield _bias(audit.length_bias, told, aucs[0] if len(aucs) == 1 else None)
    counted = max((sum(one.counts) for one in spreads.values()), default=audit.rows.kept)
    total = max([counted, *(one.cut + one.dropped for one in audit.truncation)])
    if audit.truncation and total:
        yield _limits(audit.truncation, total, audit.max_length)


def _any(spread: Histogram | None) -> bool:
    return spread is not None and any(spread.counts)


def quantile(spread: Histogram, share: float) -> float:
    """The length that a share of all stay below, as well as ranges can tell."""
    left = share * sum(spread.counts)
    for (low, high), count in zip(pairwise(spread.edges), spread.counts, strict=True):
        if count and left <= count:
            return low + (high - low) * left / count
        left -= count
    return spread.edges[-1]


def _lengths(spreads: Mapping[str, Histogram], unit: str) -> Figure:
    middles = {part: quantile(one, 0.5) for part, one in spreads.items()}
    shares = (0.1, 0.5, 0.9, 0.99)
    lines = [
        (part, *(thousands(quantile(one, share)) for share in shares))
        for part, one in spreads.items()
    ]
    columns = (f"Quantiles, {unit}", "10 %", "50 %", "90 %", "99 %")
    return Figure(
        "lengths",
        "Lengths",
        Words("audit", unit=unit, middles=middles)["lengths"],
        (5.8, 3.9 if len(spreads) > 1 else 2.6),
        partial(_paint_lengths, spreads, unit),
        "How common each length is, prompts above, answers below; triangles mark the medians. "
        "Worry if the two kinds of answers stand apart: length alone then tells which one is "
        "preferred.",
        Table("", columns, lines),
    )


def _bias(every: Sequence[Bias], told: Sequence[Bias], auc: float | None) -> Figure:
    pairs = sum(one.pairs for one in told)
    overall = sum(one.pairs * (one.longer_chosen or 0) for one in told) / pairs
    lines = [(_span(one), f"{one.pairs:,}", as_percent(one.longer_chosen)) for one in every]
    return Figure(
        "bias",
        "Length bias",
        Words("audit", told=told, pairs=pairs, overall=overall, auc=auc)["bias"],
        (5.8, 3.6),
        partial(_paint_bias, every),
        "How often the longer answer is the chosen one, by how much longer it is; the dotted line "
        "is a coin toss. Worry if the curve climbs: the model would learn to write more, not "
        "better.",
        Table("", ("Times as long", "Pairs", "Longer chosen"), lines),
    )


def _span(one: Bias) -> str:
    return f"{one.low:.3g} and more" if one.high is None else f"{one.low:.3g} to {one.high:.3g}"


def _limits(limits: Sequence[Limit], total: int, max_length: int | None) -> Figure:
    here = next((one for one in limits if one.max_length == max_length), None)
    enough = next((one for one in limits if one.cut + one.dropped < 0.01 * total), None)
    words = Words("audit", limits=limits, total=total, here=here, enough=enough)
    lines = [
        (
            f"{one.max_length:,}",
            f"{one.cut:,}",
            f"{one.dropped:,}",
            as_percent(max(0.0, 1 - (one.cut + one.dropped) / total)),
        )
        for one in limits
    ]
    return Figure(
        "limits",
        "What a limit would cut",
        words["limits"],
        (5.8, 3.5),
        partial(_paint_limits, limits, total, max_length),
        "The share of the pairs that each max_length would cut or drop. A cut answer teaches the "
        "model to stop in the middle: choose a limit to the right of the bend.",
        Table("", ("max_length", "Cut", "Dropped", "Untouched"), lines),
    )


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
        axes.yaxis.set_major_locator(NullLocator())  # it is shapes that are compared, and areas
    _dress_lengths(grid[-1], list(spreads.values()))
    grid[-1].set_xlabel(unit)
    canvas.legend(loc="outside upper left", ncols=3)


def _stairs(axes: Axes, part: str, spread: Histogram) -> None:
    name, line = _PARTS[part]
    edges, heights = _density(spread)
    look = {"color": COLOURS[name], "linewidth": 1.6, "linestyle": line, "label": part}
    axes.stairs(heights, edges, fill=True, color=COLOURS[name], alpha=0.13, linewidth=0)
    axes.stairs(heights, edges, baseline=None, **look)
    middle = max(quantile(spread, 0.5), edges[0])
    mark = {"marker": "^", "markersize": 7.5, "clip_on": False, "zorder": 5}
    axes.plot([middle], [0], color=COLOURS[name], **mark)
    axes.axvline(middle, color=COLOURS[name], linewidth=1, linestyle=DOTTED)


def _density(spread: Histogram) -> tuple[list[float], list[float]]:
    """Edges as drawn, and heights such that areas are shares, on the axis that is used."""
    edges = list(spread.edges)
    if not _spaced(edges):
        widths = [high - low for low, high in pairwise(edges)]
    else:
        if edges[0] <= 0:
            edges[0] = edges[1] / 2  # zero has no place on a logarithmic axis
        widths = [math.log2(high / low) for low, high in pairwise(edges)]
    total = sum(spread.counts)
    pairs = zip(spread.counts, widths, strict=True)
    return edges, [count / total / width for count, width in pairs]


def _dress_lengths(axes: Axes, spreads: Sequence[Histogram]) -> None:
    """From the shortest to nearly the longest: a few giants would hide all others."""
    edges = spreads[0].edges
    last = max(_reached(one) for one in spreads)
    axes.xaxis.set_major_formatter(thousands)
    if not _spaced(edges):
        axes.set_xlim(edges[0], last)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        return
    first = max(min(quantile(one, 0.001) for one in spreads), edges[1] / 2)
    axes.set_xscale("log")
    axes.set_xlim(first, last)
    tens = [10.0**n for n in range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)]
    seen = [ten * step for ten in tens for step in (1, 2, 5) if first <= ten * step <= last]
    coarse = [tick for tick in seen if tick in tens]
    axes.xaxis.set_major_locator(FixedLocator(seen if len(seen) <= 8 else coarse))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(thousands)


def _reached(spread: Histogram) -> float:
    """The end of the range that nearly all lengths lie below."""
    aim = quantile(spread, _NEARLY_ALL)
    return next((edge for edge in spread.edges if edge >= aim), spread.edges[-1])


def _spaced(edges: Sequence[float]) -> bool:
    """Whether ranges grow, so that they belong on a logarithmic axis."""
    widths = [high - low for low, high in pairwise(edges)]
    return max(widths[1:-1] or widths) > 3 * min(widths[1:-1] or widths)


def _paint_bias(every: Sequence[Bias], canvas: Canvas) -> None:
    """How often the longer answer is chosen, and beneath it how many pairs say so."""
    curve, bars = canvas.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    shares = [math.nan if one.longer_chosen is None else one.longer_chosen for one in every]
    places, colour = range(len(every)), COLOURS["chosen"]
    curve.axhline(0.5, color=COLOURS["ink"], linewidth=1, linestyle=DOTTED)
    curve.fill_between(places, shares, 0.5, color=colour, alpha=0.09, linewidth=0)
    curve.plot(places, shares, color=colour, linewidth=1.9, marker="o", markersize=5.5)
    curve.set_ylim(-0.03, 1.03)
    curve.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    curve.yaxis.set_major_formatter(percent)
    curve.set_ylabel("longer answer chosen")
    bars.bar(places, [one.pairs for one in every], 0.72, color=COLOURS["muted"], alpha=0.55)
    bars.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    bars.yaxis.set_major_formatter(thousands)
    bars.set_ylabel("pairs")
    borders = [*(one.low for one in every), every[-1].high]
    bars.set_xlim(-0.6, len(every) - 0.4)
    bars.xaxis.set_major_locator(FixedLocator([i - 0.5 for i in range(len(borders))]))
    names = ["∞" if border is None else f"{border:.3g}" for border in borders]
    bars.xaxis.set_major_formatter(FixedFormatter(names))
    bars.set_xlabel("times as long as the shorter answer")


def _paint_limits(
    limits: Sequence[Limit], total: int, max_length: int | None, canvas: Canvas
) -> None:
    """The share of pairs that a limit cuts or drops, over the limit; the chosen limit marked."""
    axes = canvas.add_subplot()
    lengths = [one.max_length for one in limits]
    cut = [min(1.0, one.cut / total) for one in limits]
    dropped = [min(1.0, one.dropped / total) for one in limits]
    style = {"linewidth": 1.9, "marker": "o", "markersize": 4.5, "clip_on": False}
    axes.plot(lengths, cut, color=COLOURS["nll"], label="cut", **style)
    axes.plot(lengths, dropped, color=COLOURS["ink"], linestyle=DASHED, label="dropped", **style)
    axes.set_ylim(0, max(0.01, *cut, *dropped) * 1.12)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(percent)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    step = math.ceil(len(lengths) / 7)
    axes.xaxis.set_major_locator(FixedLocator(lengths[::-step][::-1]))
    axes.xaxis.set_major_formatter(thousands)
    axes.set_xlabel("max_length, tokens")
    if len(lengths) == 1:
        axes.set_xlim(lengths[0] / 2, lengths[0] * 2)
    if max_length:
        mark = {"linewidth": 1, "linestyle": DOTTED, "label": f"max_length {max_length:,}"}
        axes.axvline(max_length, color=COLOURS["ink"], **mark)
    axes.legend()
