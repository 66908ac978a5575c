"""The curves of an audit: lengths, what length gives away, what a limit would cut."""

from __future__ import annotations

import math
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedFormatter,
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullLocator,
)

from orpo.report.audit.reading import Bias, Limit, Spread
from orpo.report.svg import COLOURS, drawn, dress

__all__ = ["draw_bias", "draw_lengths", "draw_limits"]

_DASHED = (0, (5, 1.6))
_DOTTED = (0, (2, 2))
_SEEN = 0.995


def draw_lengths(spreads: list[Spread], unit: str) -> str:
    """The prompts above, both answers below, on one axis; a line at each median.

    Args:
        spreads: At least one.
        unit: "tokens" or "characters".
    """
    prompts = [one for one in spreads if one.part == "prompt"]
    answers = [one for one in spreads if one.part != "prompt"]
    rows = [row for row in (prompts, answers) if row]
    heights = [1 if row is prompts else 2 for row in rows]

    def paint(figure: Figure) -> None:
        grid = figure.subplots(len(rows), 1, sharex=True, squeeze=False, height_ratios=heights)
        for axes, row in zip(grid[:, 0], rows, strict=True):
            for one in row:
                _stairs(axes, one)
            _dress_stairs(axes)
        _dress_lengths(grid[-1, 0], spreads)
        grid[-1, 0].set_xlabel(unit, color=COLOURS["muted"])

    return drawn("lengths", (5.8, 3.6 if len(rows) > 1 else 2.6), paint)


def draw_bias(biases: list[Bias]) -> str:
    """How often the longer answer is chosen, and beneath it how many pairs say so."""

    def paint(figure: Figure) -> None:
        curve, bars = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
        _draw_shares(curve, biases)
        counts = [one.pairs for one in biases]
        bars.bar(range(len(biases)), counts, 0.72, color=COLOURS["muted"], alpha=0.55)
        bars.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        bars.yaxis.set_major_formatter(FuncFormatter(_counted))
        bars.set_ylabel("pairs", color=COLOURS["muted"])
        dress(bars)
        borders = [*(one.low for one in biases), biases[-1].high]
        bars.set_xlim(-0.6, len(biases) - 0.4)
        bars.xaxis.set_major_locator(FixedLocator([i - 0.5 for i in range(len(borders))]))
        bars.xaxis.set_major_formatter(FixedFormatter([_ratio(one) for one in borders]))
        bars.set_xlabel("times as long as the shorter answer", color=COLOURS["muted"])

    return drawn("bias", (5.8, 3.6), paint)


def draw_limits(limits: list[Limit], total: int, max_length: int | None) -> str:
    """The share of pairs that a limit cuts or drops, over the limit; the chosen limit marked."""
    lengths = [one.max_length for one in limits]
    cut = [min(1.0, one.cut / total) for one in limits]
    dropped = [min(1.0, one.dropped / total) for one in limits]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        style = {"linewidth": 1.9, "marker": "o", "markersize": 4.5, "clip_on": False}
        axes.plot(lengths, cut, color=COLOURS["nll"], **style)
        axes.plot(lengths, dropped, color=COLOURS["ink"], linestyle=_DASHED, **style)
        dress(axes)
        axes.set_ylim(0, max(0.01, *cut, *dropped) * 1.12)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        _dress_limits(axes, lengths)
        if max_length:
            axes.axvline(max_length, color=COLOURS["ink"], linewidth=1, linestyle=_DOTTED)

    return drawn("limits", (5.8, 3.3), paint)


def _stairs(axes: Axes, spread: Spread) -> None:
    colour = COLOURS["muted" if spread.part == "prompt" else spread.part]
    dashed = _DASHED if spread.part == "rejected" else "solid"
    edges, heights = _density(spread)
    axes.stairs(heights, edges, fill=True, color=colour, alpha=0.13, linewidth=0)
    axes.stairs(heights, edges, color=colour, linewidth=1.6, linestyle=dashed, baseline=None)
    middle = max(spread.quantile(0.5), edges[0])
    axes.plot([middle], [0], marker="^", markersize=7.5, color=colour, clip_on=False, zorder=5)
    axes.axvline(middle, color=colour, linewidth=1, linestyle=_DOTTED)


def _density(spread: Spread) -> tuple[list[float], list[float]]:
    """Edges as drawn, and heights such that areas are shares, on the axis that is used."""
    edges = list(spread.edges)
    if not _spaced(edges):
        widths = [high - low for low, high in pairwise(edges)]
    else:
        if edges[0] <= 0:
            edges[0] = edges[1] / 2  # zero has no place on a logarithmic axis
        widths = [math.log2(high / low) for low, high in pairwise(edges)]
    pairs = zip(spread.counts, widths, strict=True)
    return edges, [count / spread.total / width for count, width in pairs]


def _dress_stairs(axes: Axes) -> None:
    """No heights: it is shapes that are compared, and areas."""
    dress(axes)
    axes.margins(y=0.08)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(NullLocator())


def _dress_lengths(axes: Axes, spreads: list[Spread]) -> None:
    """From the shortest to nearly the longest: a few giants would hide all others."""
    edges = spreads[0].edges
    last = max(_reached(one) for one in spreads)
    axes.xaxis.set_major_formatter(FuncFormatter(_counted))
    if not _spaced(edges):
        axes.set_xlim(edges[0], last)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        return
    first = max(min(one.quantile(0.001) for one in spreads), edges[1] / 2)
    axes.set_xscale("log")
    axes.set_xlim(first, last)
    tens = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
    ticks = [10.0**power * step for power in tens for step in (1, 2, 5)]
    seen = [tick for tick in ticks if first <= tick <= last]
    coarse = [tick for tick in seen if tick in {10.0**power for power in tens}]
    axes.xaxis.set_major_locator(FixedLocator(seen if len(seen) <= 8 else coarse))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_counted))


def _reached(spread: Spread) -> float:
    """The end of the range that nearly all lengths lie below."""
    aim = spread.quantile(_SEEN)
    return next((edge for edge in spread.edges if edge >= aim), spread.edges[-1])


def _spaced(edges: list[float] | tuple[float, ...]) -> bool:
    """Whether ranges grow, so that they belong on a logarithmic axis."""
    widths = [high - low for low, high in pairwise(edges)]
    return max(widths[1:-1] or widths) > 3 * min(widths[1:-1] or widths)


def _draw_shares(axes: Axes, biases: list[Bias]) -> None:
    shares = [math.nan if one.share is None else one.share for one in biases]
    colour = COLOURS["chosen"]
    axes.axhline(0.5, color=COLOURS["ink"], linewidth=1, linestyle=_DOTTED)
    axes.fill_between(range(len(shares)), shares, 0.5, color=colour, alpha=0.09, linewidth=0)
    axes.plot(range(len(shares)), shares, color=colour, linewidth=1.9, marker="o", markersize=5.5)
    dress(axes)
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.yaxis.set_major_formatter(FuncFormatter(_percent))


def _dress_limits(axes: Axes, lengths: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    step = math.ceil(len(lengths) / 7)
    axes.xaxis.set_major_locator(FixedLocator(lengths[::-step][::-1]))
    axes.xaxis.set_major_formatter(FuncFormatter(_counted))
    axes.set_xlabel("max_length, tokens", color=COLOURS["muted"])
    if len(lengths) == 1:
        axes.set_xlim(lengths[0] / 2, lengths[0] * 2)


def _counted(value: float, _: object = None) -> str:
    return f"{value:,.0f}"


def _percent(share: float, _: object = None) -> str:
    return f"{100 * share:.4g} %"


def _ratio(value: float | None) -> str:
    return "∞" if value is None else f"{value:.3g}"
