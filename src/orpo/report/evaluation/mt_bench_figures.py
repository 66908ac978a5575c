"""Figures of MT-Bench: the radar chart, and how sure each category is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from orpo.report.evaluation.radar import MOST, Radar
from orpo.report.evaluation.types import Figure
from orpo.report.svg import COLOURS, dress, legend
from orpo.report.values import as_count, mapping, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["FIGURE", "figures", "shown"]

FIGURE = " (figure)"
"""Behind the names of models whose scores were read off a published figure."""

_NAMES = {"stem": "STEM"}
_TURNS = ("1", "2")


def shown(category: str) -> str:
    """A category's name as people write it."""
    return _NAMES.get(category, category[:1].upper() + category[1:])


def figures(
    model: str, main: Mapping[str, Any], table: Mapping[str, Mapping[str, float]]
) -> tuple[Figure, ...]:
    """The radar chart of all models, and this model's scores with their intervals.

    Args:
        model: The model that the page is about.
        main: Its scores.
        table: Model -> category -> score, this model first.
    """
    found = []
    own = mapping(main.get("by_category"))
    names = list(own)
    if len(names) >= 3:
        drawn = {
            one: {shown(c): scores[c] for c in names if c in scores}
            for one, scores in list(table.items())[:MOST]
        }
        radar = Radar([shown(name) for name in names], drawn)
        found.append(
            Figure("radar", "Scores by category", _seen(model, own, table), radar.size, radar.paint)
        )
    if names:
        height = 1.2 + 0.5 * len(names)
        caption = (
            "Each category's mean with its 95 % interval, and the means of both turns. With ten "
            "questions in a category, differences of a point or two are within chance."
        )
        found.append(
            Figure("turns", "How sure, and by turn", caption, (6.4, height), partial(_dots, main))
        )
    return tuple(found)


def _seen(model: str, own: Mapping[str, Any], table: Mapping[str, Mapping[str, float]]) -> str:
    best, worst = (pick(own, key=lambda c: float(own[c])) for pick in (max, min))
    text = (
        f"From 0 in the centre to 10. {model} is best in {shown(best)} ({float(own[best]):.2f}) "
        f"and weakest in {shown(worst)} ({float(own[worst]):.2f})."
    )
    if len(table) > MOST:
        left = as_count(len(table) - MOST, "further model")
        text += f" {left} {'is' if len(table) == MOST + 1 else 'are'} in the table only."
    if any(name.endswith(FIGURE) for name in table):
        text += " (figure): read off the method's published figure, ±0.05."
    return text


def _dots(main: Mapping[str, Any], canvas: Canvas) -> None:
    axes = canvas.add_subplot()
    dress(axes)
    axes.grid(axis="x", color=COLOURS["rule"], linewidth=0.8)
    axes.grid(axis="y", visible=False)
    means, spans = mapping(main.get("by_category")), mapping(main.get("intervals"))
    turns = mapping(main.get("by_category_and_turn"))
    places = range(len(means))
    for place, name in zip(places, means, strict=True):
        span = mapping(spans.get(name))
        low, high = number(span.get("low")), number(span.get("high"))
        if low is not None and high is not None:
            axes.plot([low, high], [place] * 2, color=COLOURS["muted"], linewidth=1.6, zorder=2)
    axes.plot(
        list(means.values()), places, "o", color=COLOURS["chosen"], markersize=8, label="both turns"
    )
    for turn, marker, shift in zip(_TURNS, ("$1$", "$2$"), (-0.28, 0.3), strict=True):
        values = [number(mapping(turns.get(name)).get(turn)) for name in means]
        known = [
            (value, place) for value, place in zip(values, places, strict=True) if value is not None
        ]
        if known:
            axes.plot(
                [value for value, _ in known],
                [place + shift for _, place in known],
                linestyle="none",
                marker=marker,
                color=COLOURS["ink"],
                markersize=6,
                label=f"turn {turn}",
            )
    axes.set_yticks(list(places), [shown(name) for name in means])
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
    axes.set_xlim(0, 10.3)
    axes.set_ylim(len(means) - 0.4, -0.7)
    legend(axes, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
