"""Figures as inline SVG: colours from the page's style sheet, text as text, same bytes every time.

Nothing that a data set or a recipe could have named is written into a figure: names belong to the
page, which escapes them. Matplotlib would read a dollar sign as mathematics.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["COLOURS", "drawn", "dress"]

COLOURS = {
    "ink": "#010203",
    "muted": "#010204",
    "rule": "#010205",
    "paper": "#010206",
    "chosen": "#010207",
    "rejected": "#010208",
    "nll": "#010209",
}
"""Stand-ins, found again in the SVG and replaced by variables of the style sheet, so that one
figure is legible on light and on dark paper."""


def drawn(name: str, size: tuple[float, float], paint: Callable[[Figure], None]) -> str:
    """What `paint` puts on a figure, as an `<svg>` element for the middle of a page.

    Args:
        name: Goes into the ids, so that two figures of one page don't share any.
        size: Width and height in inches; on the page it fills the width that there is.
        paint: Draws on an empty figure, in `COLOURS` only.
    """
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 11,
        "axes.unicode_minus": True,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return _inline(file.getvalue(), name)


def dress(axes: Axes) -> None:
    """Axes and grid: as little as it takes."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(COLOURS["rule"])
    axes.tick_params(length=0, labelcolor=COLOURS["muted"], pad=6)
    axes.grid(axis="y", color=COLOURS["rule"], linewidth=0.8)
    axes.set_axisbelow(True)


def _inline(svg: str, name: str) -> str:
    """The `<svg>` element alone, without a fixed size, its ids its own, its colours the page's."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    used = set(re.findall(r'(?:url\(|href=")#(\w+)', svg))

    def own(match: re.Match[str]) -> str:
        return f' id="{name}-{match[1]}"' if match[1] in used else ""

    svg = re.sub(r' id="([^"]*)"', own, svg)
    svg = re.sub(r'(url\(|href=")#(\w+)', rf"\1#{name}-\2", svg)
    for variable, standin in COLOURS.items():
        svg = svg.replace(standin, f"var(--{variable})")
    return re.sub(r"\n\s*", "\n", svg)
