"""The training curves: which metrics each figure holds, how it is drawn, what is seen in it."""

from __future__ import annotations

import math
import statistics
from bisect import bisect, bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from matplotlib import ticker
from matplotlib.lines import Line2D

from orpo.quantities import as_count, as_pair, as_percent, thousands
from orpo.report import style
from orpo.report.page import Figure, Words
from orpo.report.series import Curves, smoothed, thinned
from orpo.report.style import COLOURS, DASHED, DOTTED
from orpo.report.values import shortened
from orpo.runs.curves import FEWEST, Series, Shift

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

_METRICS = {
    "loss": ("loss", "ink", "solid"),
    "nll_loss": ("its NLL part", "nll", DASHED),
    "logps/chosen": ("chosen", "chosen", "solid"),
    "logps/rejected": ("rejected", "rejected", DASHED),
    "log_odds_chosen": ("log odds ratio", "chosen", "solid"),
    "rewards/accuracies": ("preference accuracy", "chosen", "solid"),
    "learning_rate": ("learning rate", "ink", "solid"),
    "grad_norm": ("gradient norm", "ink", "solid"),
}
"""Metric -> its name, colour and line."""
MARKERS = ("o", "s", "^", "D", "v")
"""Shapes of the evaluation sets; more of them are not drawn."""
_SMALL = ("rate", "norm")


class _Plot(NamedTuple):
    """A figure of the run's page; `reference` is the height of a line that means something."""

    name: str
    title: str
    metrics: tuple[str, ...]
    reference: float | None = None


_PLOTS = (
    _Plot("loss", "Loss", ("loss", "nll_loss")),
    _Plot("logps", "Log-probability per token", ("logps/chosen", "logps/rejected")),
    _Plot("odds", "Log odds ratio, chosen over rejected", ("log_odds_chosen",), 0.0),
    _Plot("accuracy", "Preference accuracy", ("rewards/accuracies",), 0.5),
    _Plot("rate", "Learning rate", ("learning_rate",)),
    _Plot("norm", "Gradient norm", ("grad_norm",)),
)


def run_figures(curves: Curves) -> list[Figure]:
    """Every figure for which at least one point was logged."""
    words, found = _words(curves), []
    for plot in _PLOTS:
        series = [one for metric in plot.metrics for one in curves.all_of(metric) if one.points]
        sources = list(dict.fromkeys(one.source for one in series if one.source is not None))
        shown, left = sources[: len(MARKERS)], sources[len(MARKERS) :]
        seen = [words[plot.name], *(_held_out(plot, source, series) for source in shown)]
        seen += [f"{as_count(len(left), 'further evaluation set')} not drawn."] if left else []
        drawn = [one for one in series if one.source is None or one.source in shown]
        size = (5.8, 2.3 if plot.name in _SMALL else 3.5)
        paint, reading = partial(_paint, plot, drawn, shown), words[f"{plot.name}_reading"]
        text = " ".join(filter(None, seen))
        figure = Figure(plot.name, plot.title, text, size, paint, reading)
        found += [figure] if series else []
    return found


def _words(curves: Curves) -> Words:
    """What is seen in each figure, and where each curve started and ended."""
    training = {metric: one for metric, one in curves.training.items() if one.points}
    chosen, rejected = (training.get(f"logps/{answer}") for answer in ("chosen", "rejected"))
    distance = None
    if chosen and rejected:
        both = {s: v - rejected.points[s] for s, v in chosen.points.items() if s in rejected.points}
        distance = replace(chosen.part(both.items()), metric="distance") if both else None
    return Words(
        "curves",
        of=training.get,
        distance=distance,
        few=len(chosen.points) < FEWEST if chosen else True,
        went=trend_told,
        peak=lambda one: max(one.points.items(), key=lambda point: point[1]),
        middle=lambda one: sorted(one.values)[len(one.points) // 2],
    )


def trend_told(name: str, trend: Shift, *, share: bool = False, grows: bool = False) -> str:
    """Where a curve started and ended: "the loss fell from 2.08 to 1.06".

    With `grows` it "grew" or "shrank", as a distance does.
    """
    first, last = as_pair(trend.first, trend.last)
    if share:
        first, last = as_percent(trend.first), as_percent(trend.last)
    if not trend.known:
        return f"{name} went from {first} to {last}, in too few logged steps to call it a trend"
    if trend.direction == "held":
        return f"{name} showed no clear trend ({first} → {last})"
    verb = {"rose": "grew", "fell": "shrank"}[trend.direction] if grows else trend.direction
    return f"{name} {verb} from {first} to {last}"


def _held_out(plot: _Plot, source: str, series: Sequence[Series]) -> str:
    """First and last evaluation of the figure's metrics on an evaluation set."""
    parts, steps = [], set[float]()
    for one in (one for one in series if one.source == source):
        first, last = one.values[0], one.values[-1]
        ends = as_pair(first, last)
        if plot.name == "accuracy":
            ends = as_percent(first), as_percent(last)
        name = f"{_METRICS[one.metric][0]} " * (len(plot.metrics) > 1)
        parts.append(name + (" → ".join(ends) if len(one.points) > 1 else ends[0]))
        steps |= one.points.keys()
    where = f"steps {min(steps):,.0f} to {max(steps):,.0f}"
    if len(steps) == 1:
        where = f"step {min(steps):,.0f}"
    which = f" {shortened(source, 60)}" if source else ""
    return f"Held out{which}, {where}: {', '.join(parts)}."


def _paint(plot: _Plot, series: Sequence[Series], sources: Sequence[str], canvas: Canvas) -> None:
    axes = canvas.add_subplot()
    for one in series:
        _paint_series(axes, one, sources)
    _shade_distance(axes, {one.metric: one for one in series if one.source is None})
    whole = ticker.MaxNLocator(5, integer=True, steps=[1, 2, 5, 10])
    style.dress(axes.xaxis, "optimizer step", whole, thousands)
    axes.margins(x=0.02, y=0.08)
    steps = {step for one in series for step in one.points}
    if len(steps) == 1:
        axes.set_xlim(min(steps) - 1, min(steps) + 1)
    if plot.reference is not None:
        axes.axhline(plot.reference, color=COLOURS["ink"], linewidth=1, linestyle=DOTTED)
    _dress_heights(axes, plot, [value for one in series for value in one.values])
    handles = list(_legend(series, sources))
    if len(handles) > 1:
        style.legend(canvas, handles)


def _legend(series: Sequence[Series], sources: Sequence[str]) -> Iterator[Line2D]:
    """The metrics by colour and dash, then the evaluation sets by marker."""
    for metric in dict.fromkeys(one.metric for one in series):
        name, colour, line = _METRICS[metric]
        yield Line2D([], [], color=COLOURS[colour], linewidth=1.9, linestyle=line, label=name)
    look: dict[str, Any] = {"linestyle": "none", "markerfacecolor": COLOURS["paper"]}
    for source, marker in zip(sources, MARKERS, strict=False):
        name = style.plain(f"held out: {source}" if source else "held out", 34)
        yield Line2D([], [], color=COLOURS["muted"], marker=marker, label=name, **look)


def _paint_series(axes: Axes, series: Series, sources: Sequence[str]) -> None:
    _, name, line = _METRICS[series.metric]
    look: dict[str, Any] = {"color": COLOURS[name], "linewidth": 1.9, "linestyle": line}
    if series.source is not None:
        look |= {"marker": MARKERS[sources.index(series.source)], "markersize": 6.5, "zorder": 3}
        look |= {"linewidth": 0.9, "linestyle": (0, (1, 2)), "markerfacecolor": COLOURS["paper"]}
        axes.plot(*_with_gaps(series, thinned(series.points, 60)), markeredgewidth=1.5, **look)
        return
    smooth = None if series.metric == "learning_rate" else smoothed(series)
    if smooth is not None:
        faint = look | {"linewidth": 0.8, "linestyle": "solid", "alpha": 0.28}
        axes.plot(*_with_gaps(series, thinned(series.points)), **faint)
    if len(series.points) == 1 or series.broken:  # a point between two gaps is seen, too
        look |= {"marker": "o", "markersize": 2 if series.broken else 6, "markeredgewidth": 0}
    axes.plot(*_with_gaps(series, thinned((smooth or series).points)), **look)


def _with_gaps(
    series: Series, points: Sequence[tuple[float, float]]
) -> tuple[list[float], list[float]]:
    """Steps and heights; NaN parts those between which more is missing than was logged."""
    steps, found = list(series.points), [points[0]]
    usual = statistics.median(b - a for a, b in pairwise(steps)) if steps[1:] else 0.0
    for (first, _), (last, height) in pairwise(points):
        lost, kept = (bisect_left(of, last) - bisect(of, first) for of in (series.broken, steps))
        left_out = series.source is not None and not kept and last - first > 1.5 * usual
        found += [(last, math.nan)] * (lost > kept or left_out) + [(last, height)]
    return [step for step, _ in found], [height for _, height in found]


def _shade_distance(axes: Axes, training: dict[str, Series]) -> None:
    """A tint between the two answers' curves: their distance is what is learned."""
    both = [training[name] for name in ("logps/chosen", "logps/rejected") if name in training]
    if len(both) == 2:
        chosen, rejected = ((smoothed(one) or one).points for one in both)
        steps = [step for step in chosen if step in rejected]
        steps = steps[:: math.ceil(len(steps) / 200) or 1]
        if not steps:
            return
        places, heights = _with_gaps(
            training["logps/chosen"], [(step, chosen[step]) for step in steps]
        )
        others = [rejected[s] + 0 * height for s, height in zip(places, heights, strict=True)]
        look: dict[str, Any] = {"color": COLOURS["chosen"], "alpha": 0.09, "linewidth": 0}
        axes.fill_between(places, heights, others, **look)


def _dress_heights(axes: Axes, plot: _Plot, values: Sequence[float]) -> None:
    small = plot.name in _SMALL
    if plot.name == "accuracy" and all(0 <= value <= 1 for value in values):
        style.shares(axes)
    elif small and min(values) > 0 and max(values) > 30 * statistics.median(values):
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        style.dress(axes.yaxis, "", ticker.LogLocator(numticks=5), lambda value, _: f"{value:g}")
    else:
        formatter = ticker.ScalarFormatter(useOffset=False)
        formatter.set_powerlimits((-3, 5))
        few = ticker.MaxNLocator(4 if small else 5, steps=[1, 2, 5, 10])
        style.dress(axes.yaxis, "", few, formatter)
