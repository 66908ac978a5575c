"""The picture of a tuning: where the trials lie, and how far they are behind the best."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from orpo.report.evaluation.types import Figure
from orpo.report.svg import COLOURS, dress, legend
from orpo.report.values import as_number, mapping, number, records, rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["tuning_figure"]

_LINES = 14
_GOOD, _POOR = COLOURS["chosen"], COLOURS["rejected"]
_MARGIN = 1.25

Trial = dict[str, Any]


def tuning_figure(found: dict[str, Any]) -> Figure | None:
    """Trials by learning rate and lambda, and their scores with intervals; None without any."""
    trials = [one for one in records(found.get("trials")) if _place(one) is not None]
    if not trials:
        return None
    lines = sum(one.get("state") == "complete" for one in trials)
    return Figure(
        "trials",
        "Where the trials lie, and what they reached",
        "Left: every trial by learning rate and lambda, darker where its score is higher. The star "
        "is the best, the diamond what the search started from, crosses were given up early, "
        "triangles broke; the dashed box holds those that cannot be told apart from the best. "
        "Right: how far each whole trial is behind the best on the same held-out pairs, with 95 % "
        "intervals.",
        (9.2, max(3.9, 0.26 * min(lines, _LINES) + 1.2)),
        partial(_paint, found, trials),
    )


def _paint(found: dict[str, Any], trials: list[Trial], canvas: Canvas) -> None:
    left, right = canvas.subplots(1, 2, width_ratios=(1.25, 1))
    best = mapping(found.get("recommended")).get("trial")
    _paint_map(left, found, trials, best)
    _paint_lines(right, trials, best)


def _paint_map(axes: Axes, found: dict[str, Any], trials: list[Trial], best: object) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    _paint_band(axes, mapping(found.get("recommended")))
    whole = [one for one in trials if one.get("state") == "complete"]
    depth = _depths(whole)
    for one in trials:
        x, y = _place(one) or (1.0, 1.0)
        state = one.get("state")
        if state == "complete":
            axes.plot(x, y, "o", color=_GOOD, alpha=depth[id(one)], markersize=9)
            axes.plot(x, y, "o", color=_GOOD, fillstyle="none", markersize=9, linewidth=0.8)
        elif state == "pruned":
            axes.plot(x, y, "x", color=COLOURS["muted"], markersize=6)
        elif state == "failed":
            axes.plot(x, y, "^", color=_POOR, markersize=6)
        if one.get("start"):
            style = {"color": COLOURS["ink"], "fillstyle": "none", "markeredgewidth": 1.4}
            axes.plot(x, y, "D", markersize=14, label="start", linestyle="none", **style)
        if one.get("number") == best:
            axes.plot(
                x,
                y,
                "*",
                color=COLOURS["gold"],
                markeredgecolor=COLOURS["ink"],
                markeredgewidth=0.8,
                markersize=17,
                label="best",
                linestyle="none",
                zorder=4,
            )
    _dress_map(axes, mapping(found.get("space")), trials)


def _paint_band(axes: Axes, recommended: dict[str, Any]) -> None:
    """A box around the trials that cannot be told apart from the best."""
    band = mapping(recommended.get("band"))
    ends = [
        [number(end) for end in rows(band.get(name))] for name in ("learning_rate", "orpo_alpha")
    ]
    if any(len(pair) != 2 or not all(pair) for pair in ends):
        return
    (left, right), (low, high) = (
        ((pair[0] or 1.0) / _MARGIN, (pair[1] or 1.0) * _MARGIN) for pair in ends
    )
    style = {"linestyle": (0, (4, 2)), "edgecolor": COLOURS["muted"], "linewidth": 1.1}
    axes.add_patch(Rectangle((left, low), right - left, high - low, fill=False, **style))


def _dress_map(axes: Axes, space: dict[str, Any], trials: list[Trial]) -> None:
    dress(axes)
    axes.grid(axis="both", color=COLOURS["rule"], linewidth=0.8)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("λ")
    for name, limits, place in (
        ("learning_rate", axes.set_xlim, 0),
        ("orpo_alpha", axes.set_ylim, 1),
    ):
        seen = [point[place] for one in trials if (point := _place(one)) is not None]
        seen += [end for end in map(number, rows(space.get(name))) if end]
        limits(min(seen) / _MARGIN, max(seen) * _MARGIN)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: as_number(value)))
    axes.tick_params(which="minor", length=0)
    legend(axes, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, markerscale=0.7)


def _paint_lines(axes: Axes, trials: list[Trial], best: object) -> None:
    whole = [one for one in trials if one.get("state") == "complete"]
    shown = whole[:_LINES] + [one for one in whole[_LINES:] if one.get("start")]
    dress(axes)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=COLOURS["rule"], linewidth=0.8)
    labels = []
    for y, one in enumerate(shown):
        behind = mapping(one.get("behind_the_best"))
        middle, low, high = (number(behind.get(name)) for name in ("value", "low", "high"))
        near = one.get("near")
        colour = _GOOD if near else COLOURS["muted"]
        if middle is None:
            middle = 0.0
        if low is not None and high is not None:
            axes.plot([low, high], [y, y], color=colour, linewidth=2.0)
        marker = "*" if one.get("number") == best else "D" if one.get("start") else "o"
        axes.plot([middle], [y], marker, color=colour, markersize=12 if marker == "*" else 7)
        rate, alpha = (as_number(number(one.get(n))) for n in ("learning_rate", "orpo_alpha"))
        labels.append(f"{rate}, λ {alpha}")
    axes.axvline(0.0, color=COLOURS["rule"], linewidth=1.2, zorder=0.5)
    axes.set_ylim(max(len(shown), 1) - 0.5, -0.5)
    axes.set_yticks(range(len(shown)), labels)
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"], labelsize=9.5)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("score less the best trial's")


def _depths(whole: list[Trial]) -> dict[int, float]:
    """How dark each trial is: by rank, since the poorest are out of all proportion."""
    order = sorted(whole, key=lambda one: number(one.get("score")) or -math.inf)
    last = max(len(order) - 1, 1)
    return {id(one): 0.08 + 0.72 * place / last for place, one in enumerate(order)}


def _place(one: Trial) -> tuple[float, float] | None:
    x, y = (number(one.get(name)) for name in ("learning_rate", "orpo_alpha"))
    return (x, y) if x and y and x > 0 and y > 0 else None
