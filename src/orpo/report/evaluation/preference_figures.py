"""Pictures of an evaluation on held-out pairs: by group, reliability, distribution of log odds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import PercentFormatter

from orpo.report.evaluation.types import Figure
from orpo.report.svg import COLOURS, SERIES, dress, legend, plain
from orpo.report.values import mapping, number, records, rows

__all__ = ["accuracy_figure", "odds_figure", "sure_figure"]

_STYLES = {"after": SERIES[0], "before": SERIES[1]}
_NAME = "preference_accuracy"
_MOST = 40

Point = tuple[float, float, float]
"""A value and the ends of its interval."""


def accuracy_figure(before: Mapping[str, Any], after: Mapping[str, Any]) -> Figure | None:
    """Shares of pairs whose chosen answer is preferred, in all and by group, with intervals."""
    lines: list[tuple[str, dict[str, Point]]] = []
    everything = _both(before.get("intervals"), after.get("intervals"))
    if "after" not in everything:
        return None
    lines.append(("all pairs", everything))
    for kind, groups in mapping(after.get("groups")).items():
        olds = mapping(mapping(before.get("groups")).get(kind))
        for group, found in mapping(groups).items():
            lines.append((f"{kind}: {group}", _both(olds.get(group), found)))
    lines = lines[:_MOST]

    def paint(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for moment, shift in (("before", -0.16), ("after", 0.16)):
            points = [(i, one[moment]) for i, (_, one) in enumerate(lines) if moment in one]
            _bars(axes, moment, [(i + shift, *point) for i, point in points], flat=True)
        axes.axvline(0.5, color=COLOURS["muted"], linewidth=1, linestyle=(0, (2, 2)))
        axes.set_yticks(range(len(lines)), [plain(name) for name, _ in lines])
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        dress(axes)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", color=COLOURS["rule"], linewidth=0.8)
        if "before" in everything:
            legend(axes, loc="lower left")

    words = "Share of pairs whose chosen answer is preferred, with 95 % intervals; the dotted "
    words += "line is a coin toss."
    size = (7.6, 1.1 + 0.34 * len(lines))
    return Figure("accuracy", "Prefers the chosen answer", words, size, paint)


def sure_figure(before: Mapping[str, Any], after: Mapping[str, Any]) -> Figure | None:
    """How often it is right, over how sure it is."""
    series = {m: _bins(one) for m, one in (("before", before), ("after", after))}
    if not series["after"]:
        return None

    def paint(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        axes.plot([0.5, 1], [0.5, 1], color=COLOURS["muted"], linewidth=1, linestyle=(0, (2, 2)))
        for moment, points in series.items():
            _bars(axes, moment, points, flat=False)
        axes.set_xlim(0.49, 1.01)
        axes.set_ylim(0, 1.02)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("how sure the model is of its preference", color=COLOURS["muted"])
        axes.set_ylabel("how often it is right", color=COLOURS["muted"])
        dress(axes)
        if series["before"]:
            legend(axes, loc="lower right")

    words = "On the dotted line it is as often right as it is sure; below it, too sure of itself. "
    words += "Sure is the sigmoid of the log odds ratio."
    return Figure("reliability", "Sure, and right", words, (5.8, 4.2), paint)


def odds_figure(distribution: Mapping[str, Any]) -> Figure | None:
    """How the log odds ratios are spread."""
    edges = [number(edge) for edge in rows(distribution.get("edges"))]
    borders = [edge for edge in edges if edge is not None]
    counts = {
        moment: [number(n) or 0.0 for n in rows(distribution.get(moment))]
        for moment in ("before", "after")
    }
    shown = {m: one for m, one in counts.items() if one and len(one) + 1 == len(borders)}
    if not shown:
        return None

    def paint(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for moment, values in shown.items():
            style = _STYLES[moment]
            axes.stairs(values, borders, fill=True, color=style.colour, alpha=0.16)
            axes.stairs(
                values, borders, color=style.colour, linestyle=style.dash, linewidth=1.8,
                label=moment,
            )  # fmt: skip
        axes.axvline(0, color=COLOURS["muted"], linewidth=1, linestyle=(0, (2, 2)))
        axes.set_xlabel("log odds ratio", color=COLOURS["muted"])
        axes.set_ylabel("pairs", color=COLOURS["muted"])
        dress(axes)
        if len(shown) > 1:
            legend(axes)

    words = "Right of the dotted line the chosen answer is preferred; the outermost bars hold "
    words += "what lies beyond, too."
    return Figure("log-odds", "Log odds ratios of the pairs", words, (5.8, 4.2), paint)


def _both(before: object, after: object) -> dict[str, Point]:
    sides = {"before": _point(before), "after": _point(after)}
    return {moment: point for moment, point in sides.items() if point is not None}


def _point(side: object) -> Point | None:
    interval = mapping(mapping(side).get(_NAME))
    ends = [number(interval.get(end)) for end in ("value", "low", "high")]
    found = [end for end in ends if end is not None]
    return (found[0], found[1], found[2]) if len(found) == len(ends) else None


def _bins(side: Mapping[str, Any]) -> list[tuple[float, float, float, float]]:
    found = []
    for one in records(mapping(side.get("calibration")).get("bins")):
        sure, point = number(one.get("confidence")), _point({_NAME: one.get("right")})
        if sure is not None and point is not None:
            found.append((sure, *point))
    return found


def _bars(
    axes: Axes, moment: str, points: list[tuple[float, float, float, float]], *, flat: bool
) -> None:
    """Points with their intervals: (place, value, low, high), drawn over or along the places."""
    if not points:
        return
    places, values, lows, highs = zip(*points, strict=True)
    reach = [
        [max(0.0, value - low) for value, low in zip(values, lows, strict=True)],
        [max(0.0, high - value) for value, high in zip(values, highs, strict=True)],
    ]
    style = _STYLES[moment]
    across = {"x": values, "y": places, "xerr": reach}
    upright = {"x": places, "y": values, "yerr": reach}
    axes.errorbar(
        **(across if flat else upright),
        fmt=style.marker,
        color=style.colour,
        markersize=5,
        elinewidth=1.6,
        capsize=2.5,
        label=moment,
    )
