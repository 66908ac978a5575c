"""Curves over optimizer steps; legends belong to the page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
    ScalarFormatter,
)

from orpo.report.series import Series, smoothed, thinned
from orpo.report.svg import COLOURS, drawn, dress, plain

__all__ = ["MARKERS", "Legend", "Plot", "colour_of", "draw", "is_dashed"]
__all__ += ["paint_alone", "size_of"]

_METRICS = {
    "nll_loss": "nll",
    "log_odds_chosen": "chosen",
    "rewards/accuracies": "chosen",
    "logps/chosen": "chosen",
    "logps/rejected": "rejected",
}

MARKERS = (("o", "○"), ("s", "□"), ("^", "△"), ("D", "◇"), ("v", "▽"))
"""Shapes of the evaluation sets: in the figure, and as a character for the legend."""


@dataclass(frozen=True)
class Legend:
    """One entry of a figure's legend.

    Attributes:
        label: What the curve is.
        colour: The style sheet's name of its colour.
        sign: "solid", "dashed", or the character of a marker.
    """

    label: str
    colour: str
    sign: str


@dataclass(frozen=True)
class Plot:
    """What one figure shows.

    Attributes:
        name: Goes into its ids.
        series: The curves; a set of evaluation points for each evaluation set.
        sources: The evaluation sets, in the order of `MARKERS`.
        reference: Height of a horizontal line that means something.
        share: The values are shares, from 0 to 100 %.
        small: A figure of secondary interest.
    """

    name: str
    series: tuple[Series, ...]
    sources: tuple[str, ...] = ()
    reference: float | None = None
    share: bool = False
    small: bool = False


def colour_of(metric: str) -> str:
    """The style sheet's name of a metric's colour."""
    return _METRICS.get(metric, "ink")


def is_dashed(metric: str) -> bool:
    """Whether the metric's line is dashed, to be told apart without its colour."""
    return metric in ("nll_loss", "logps/rejected")


def draw(plot: Plot) -> str:
    """The figure as an `<svg>` element for the middle of a page."""
    return drawn(plot.name, size_of(plot), lambda figure: _paint(figure.add_subplot(), plot))


def size_of(plot: Plot) -> tuple[float, float]:
    """Width and height in inches."""
    return (5.8, 2.3 if plot.small else 3.3)


def paint_alone(plot: Plot, legend: Sequence[Legend]) -> Callable[[Canvas], None]:
    """Paints the figure for a file of its own, where no page says what its curves are."""

    def paint(figure: Canvas) -> None:
        axes = figure.add_subplot()
        _paint(axes, plot)
        if len(legend) > 1:
            handles = [_handle(entry) for entry in legend]
            figure.legend(
                handles=handles,
                loc="outside upper left",
                ncols=3,
                frameon=False,
                fontsize=10,
                labelcolor=COLOURS["ink"],
            )

    return paint


def _handle(entry: Legend) -> Line2D:
    colour = COLOURS[entry.colour]
    shapes = {sign: marker for marker, sign in MARKERS}
    if entry.sign in shapes:
        return Line2D(
            [],
            [],
            color=colour,
            linestyle="none",
            marker=shapes[entry.sign],
            markerfacecolor=COLOURS["paper"],
            label=plain(entry.label),
        )
    dashes = (0, (5, 1.6)) if entry.sign == "dashed" else "solid"
    return Line2D([], [], color=colour, linewidth=1.9, linestyle=dashes, label=plain(entry.label))


def _paint(axes: Axes, plot: Plot) -> None:
    for one in plot.series:
        _draw_series(axes, one, plot)
    _shade_distance(axes, plot)
    _dress(axes, plot)


def _draw_series(axes: Axes, series: Series, plot: Plot) -> None:
    colour = COLOURS[colour_of(series.metric)]
    if series.source is not None:
        _draw_points(axes, series, colour, MARKERS[plot.sources.index(series.source)][0])
        return
    dashes = (0, (5, 1.6)) if is_dashed(series.metric) else "solid"
    smooth = None if series.metric == "learning_rate" else smoothed(series)
    if smooth is not None:
        steps, values = _columns(thinned(series.points))
        axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.28)
    steps, values = _columns(thinned((smooth or series).points))
    single = {"marker": "o", "markersize": 6} if len(steps) == 1 else {}
    axes.plot(steps, values, color=colour, linewidth=1.9, linestyle=dashes, **single)


def _draw_points(axes: Axes, series: Series, colour: str, marker: str) -> None:
    steps, values = _columns(thinned(series.points, 60))
    axes.plot(
        steps,
        values,
        color=colour,
        linewidth=0.9,
        linestyle=(0, (1, 2)),
        marker=marker,
        markersize=6.5,
        markeredgewidth=1.5,
        markerfacecolor=COLOURS["paper"],
        zorder=3,
    )


def _shade_distance(axes: Axes, plot: Plot) -> None:
    """A tint between the two answers' curves: their distance is what is learned."""
    training = {one.metric: one for one in plot.series if one.source is None}
    if not {"logps/chosen", "logps/rejected"} <= training.keys():
        return
    chosen, rejected = (
        (smoothed(one) or one).points
        for one in (training["logps/chosen"], training["logps/rejected"])
    )
    steps = [step for step in chosen if step in rejected]
    steps = steps[:: math.ceil(len(steps) / 200)] if steps else steps
    axes.fill_between(
        steps,
        [chosen[step] for step in steps],
        [rejected[step] for step in steps],
        color=COLOURS["chosen"],
        alpha=0.09,
        linewidth=0,
    )


def _columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [step for step, _ in points], [value for _, value in points]


def _dress(axes: Axes, plot: Plot) -> None:
    """Axes, grid and ticks: as little as it takes."""
    dress(axes)
    axes.set_xlabel("optimizer step", color=COLOURS["muted"])
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.margins(x=0.02, y=0.08)
    steps = {step for one in plot.series for step in one.points}
    if len(steps) == 1:
        axes.set_xlim(min(steps) - 1, min(steps) + 1)
    if plot.reference is not None:
        axes.axhline(plot.reference, color=COLOURS["ink"], linewidth=1, linestyle=(0, (2, 2)))
    _dress_heights(axes, plot)


def _dress_heights(axes: Axes, plot: Plot) -> None:
    values = [value for one in plot.series for value in one.points.values()]
    if plot.share and all(0 <= value <= 1 for value in values):
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    elif plot.small and min(values) > 0 and max(values) > 30 * statistics.median(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=5))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4 if plot.small else 5, steps=[1, 2, 5, 10]))
        formatter = ScalarFormatter(useOffset=False)
        formatter.set_powerlimits((-3, 5))
        axes.yaxis.set_major_formatter(formatter)
    axes.yaxis.get_offset_text().set_color(COLOURS["muted"])
