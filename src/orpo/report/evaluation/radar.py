"""A radar chart of several models' scores by category."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orpo.report.svg import COLOURS, SERIES, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas
    from matplotlib.projections.polar import PolarAxes

__all__ = ["MOST", "Radar"]

MOST = len(SERIES)
"""More models than this could not be told apart."""


@dataclass(frozen=True)
class Radar:
    """Scores of some models on the same axes.

    Attributes:
        axes: Names, clockwise from the top; at least three.
        models: Name -> axis -> score; an axis that is absent is left open. The first is the one
            that the page is about.
        highest: The rim; the centre is 0.
    """

    axes: Sequence[str]
    models: Mapping[str, Mapping[str, float]]
    highest: float = 10.0

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in inches; each model has a line of the legend."""
        return 6.4, 5.6 + 0.25 * min(len(self.models), MOST)

    def paint(self, canvas: Canvas) -> None:
        """Draw it on an empty figure."""
        polar: PolarAxes = canvas.add_subplot(projection="polar")
        angles = [2 * math.pi * place / len(self.axes) for place in range(len(self.axes))]
        self._grid(polar, angles)
        for number, (model, scores) in enumerate(list(self.models.items())[:MOST]):
            style = SERIES[number]
            radii = [scores.get(name, math.nan) for name in self.axes]
            polar.plot(
                [*angles, angles[0]],
                [*radii, radii[0]],
                color=style.colour,
                linestyle=style.dash,
                linewidth=2.4 if number == 0 else 1.7,
                marker=style.marker,
                markersize=6 if number == 0 else 5,
                label=plain(model, 44),
                zorder=4 - number / MOST,
                clip_on=False,
            )
            if number == 0 and not any(map(math.isnan, radii)):
                polar.fill(angles, radii, color=style.colour, alpha=0.1, linewidth=0)
        canvas.legend(
            loc="outside lower center",
            frameon=False,
            labelcolor=COLOURS["ink"],
            fontsize=11.5,
            handlelength=3.2,
        )

    def _grid(self, polar: PolarAxes, angles: Sequence[float]) -> None:
        polar.set_theta_zero_location("N")
        polar.set_theta_direction(-1)
        polar.set_ylim(0, self.highest)
        polar.set_rgrids([2, 4, 6, 8, 10], angle=180 / len(self.axes), fontsize=10.5)
        polar.set_thetagrids([math.degrees(angle) for angle in angles], map(plain, self.axes))
        polar.tick_params(axis="x", labelcolor=COLOURS["ink"], labelsize=13, pad=4)
        polar.tick_params(axis="y", labelcolor=COLOURS["muted"])
        polar.grid(color=COLOURS["rule"], linewidth=0.8)
        polar.spines["polar"].set_color(COLOURS["rule"])
        polar.set_facecolor("none")
        for label, angle in zip(polar.get_xticklabels(), angles, strict=True):
            side = math.sin(angle)
            near = "center" if abs(side) < 0.1 else "left" if side > 0 else "right"
            label.set_horizontalalignment(near)
