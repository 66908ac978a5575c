"""Figures as SVG and PNG: colours by name, text as text, same bytes every time.

A figure is painted in named colours. On a page they become variables of its style sheet, so that
one figure is legible on light and on dark paper; in a file of its own they become the light values
on white. Texts that data could have named (a model, a category, a task) go through `plain`, or
matplotlib would read their dollar signs as mathematics; its SVG backend escapes them.
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import get_named_colors_mapping
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

__all__ = [
    "COLOURS",
    "SERIES",
    "Style",
    "alone",
    "drawn",
    "dress",
    "legend",
    "light",
    "pixels",
    "plain",
]

_NAMES = ("ink", "muted", "rule", "paper", "chosen", "rejected", "nll", "violet", "gold")
_STANDINS = {name: f"#0102{number:02x}" for number, name in enumerate(_NAMES, start=3)}

COLOURS = {name: f"orpo:{name}" for name in _NAMES}
"""Names that matplotlib knows while a figure is painted; outside they are nearly black."""

_DEFAULTS = {
    "text.color": "ink",
    "axes.labelcolor": "muted",
    "axes.edgecolor": "rule",
    "grid.color": "rule",
    "xtick.color": "muted",
    "ytick.color": "muted",
}
_LONGEST = 40
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_FALLBACKS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "PingFang SC",
    "Microsoft YaHei",
    "Noto Serif CJK SC",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
)
_SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', sans-serif"


@dataclass(frozen=True)
class Style:
    """How one of several series is drawn, to be told apart without its colour too.

    Attributes:
        colour: One of `COLOURS`.
        dash: Line style for matplotlib.
        marker: Marker for matplotlib.
        hatch: Of bars; empty for none.
    """

    colour: str
    dash: str | tuple[int, tuple[float, ...]]
    marker: str
    hatch: str


SERIES = (
    Style(COLOURS["chosen"], "solid", "o", ""),
    Style(COLOURS["rejected"], (0, (5, 1.6)), "s", "//"),
    Style(COLOURS["nll"], (0, (1, 1.2)), "^", "||"),
    Style(COLOURS["violet"], (0, (6, 1.5, 1, 1.5)), "D", "\\\\"),
    Style(COLOURS["gold"], (0, (9, 2)), "v", "xx"),
    Style(COLOURS["ink"], (0, (3, 1.2, 1, 1.2, 1, 1.2)), "P", "--"),
)
"""Six series beside each other, in this order: the first is the one that the page is about."""


def plain(text: object, limit: int = _LONGEST) -> str:
    """A text from data, safe for a figure: one short line, nothing in it that is not seen.

    Control characters, marks of writing direction and line breaks become spaces or go, dollar
    signs stay dollar signs, and a leading underscore does not hide a legend's entry.

    Args:
        text: Anything.
        limit: Most characters; what is left out is marked by "…".
    """
    line = _seen(str(text))
    if len(line) > limit:
        line = line[: limit - 1].rstrip() + "…"
    line = "‗" + line[1:] if line.startswith("_") else line
    return line.replace("$", r"\$")


def drawn(name: str, size: tuple[float, float], paint: Callable[[Figure], None]) -> str:
    """What `paint` puts on a figure, as an `<svg>` element for the middle of a page.

    Args:
        name: Goes into the ids, so that two figures of one page don't share any.
        size: Width and height in inches; on the page it fills the width that there is.
        paint: Draws on an empty figure, in `COLOURS` only.
    """
    settings = {"svg.fonttype": "none", "svg.hashsalt": name}
    with _painted(size, paint, _STANDINS, settings) as figure:
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return _inline(file.getvalue(), name)


def alone(element: str, title: str, caption: str) -> str:
    """An `<svg>` element of `drawn` as a file of its own: light colours, on white.

    Args:
        element: The figure.
        title: What it shows; a viewer's tooltip, and read aloud.
        caption: What there is to see in it.
    """

    def coloured(tag: str) -> str:
        return re.sub(r"var\(--(\w+)\)", lambda match: light()[match[1]], tag)

    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', element)
    assert size is not None, "matplotlib writes a view box"
    head, rest = _in_tags(element, coloured).split(">", 1)
    words = [
        f"<{tag}>{escape(_seen(text), quote=False)}</{tag}>"
        for tag, text in (("title", title), ("desc", caption))
    ]
    return "\n".join(
        [
            '<?xml version="1.0" encoding="utf-8"?>',
            f'{head} width="{size[1]}pt" height="{size[2]}pt">',
            *words,
            f"<style>text {{ font-family: {_SANS}; }}</style>",
            f'<rect width="100%" height="100%" fill="{light()["paper"]}"/>{rest}',
            "",
        ]
    )


def pixels(size: tuple[float, float], paint: Callable[[Figure], None]) -> bytes:
    """What `paint` puts on a figure as a PNG: light colours, on white, 200 dots per inch."""
    found = set(fontManager.get_font_names())
    family = ["DejaVu Sans", *(name for name in _FALLBACKS if name in found)]
    with _painted(size, paint, light(), {"font.family": family}) as figure:
        file = io.BytesIO()
        figure.savefig(
            file, format="png", dpi=200, facecolor=light()["paper"], metadata={"Software": None}
        )
    return file.getvalue()


def dress(axes: Axes) -> None:
    """Axes and grid: as little as it takes."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(COLOURS["rule"])
    axes.tick_params(length=0, labelcolor=COLOURS["muted"], pad=6)
    axes.grid(axis="y", color=COLOURS["rule"], linewidth=0.8)
    axes.set_axisbelow(True)


def legend(axes: Axes, **settings: object) -> None:
    """The legend of labelled artists, without a frame; settings are those of `Axes.legend`."""
    axes.legend(**{"frameon": False, "labelcolor": COLOURS["ink"], "fontsize": 10, **settings})


@cache
def light() -> Mapping[str, str]:
    """Colour -> its value on white, from the page's style sheet."""
    sheet = (files("orpo.report") / "page.css").read_text(encoding="utf-8")
    found = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", sheet.split("}", 1)[0]))
    return {name: found[name] for name in _NAMES} | {"paper": "#ffffff"}


@contextmanager
def _painted(
    size: tuple[float, float],
    paint: Callable[[Figure], None],
    colours: Mapping[str, str],
    settings: Mapping[str, object],
) -> Iterator[Figure]:
    """A figure that is painted, and to be saved, in some colours."""
    defaults = {setting: COLOURS[name] for setting, name in _DEFAULTS.items()}
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        try:
            _name(colours)
            mpl.rcParams.update({"font.size": 11, "hatch.linewidth": 0.7, **defaults, **settings})
            figure = Figure(figsize=size, layout="constrained")
            paint(figure)
            yield figure
        finally:
            _name(_STANDINS)


def _name(colours: Mapping[str, str]) -> None:
    """Tell matplotlib what the names of `COLOURS` stand for."""
    known = get_named_colors_mapping()
    for name, called in COLOURS.items():
        known[called] = colours[name]  # one by one: `update` leaves its cache as it was


_name(_STANDINS)


def _seen(text: str) -> str:
    """One line of what is seen of a text; XML cannot hold the rest."""
    kept = (" " if c.isspace() else "" if unicodedata.category(c) in _UNSEEN else c for c in text)
    return " ".join("".join(kept).split())


def _inline(svg: str, name: str) -> str:
    """The `<svg>` element alone, without a fixed size, its ids its own, its colours the page's."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(|href=")#(\w+)', "".join(re.findall(r"<[^>]*>", svg))))

    def own(match: re.Match[str]) -> str:
        return f' id="{name}-{match[1]}"' if match[1] in used else ""

    def dressed(tag: str) -> str:
        tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
        tag = re.sub(r' id="([^"]*)"', own, tag)
        tag = re.sub(r'(url\(|href=")#(\w+)', rf"\1#{name}-\2", tag)
        for variable, standin in _STANDINS.items():
            tag = tag.replace(standin, f"var(--{variable})")
        return re.sub(r' (?:width|height)="[\d.]+pt"', "", tag) if tag.startswith("<svg") else tag

    return re.sub(r"\n\s*", "\n", _in_tags(svg, dressed))


def _in_tags(svg: str, change: Callable[[str], str]) -> str:
    """The SVG with its tags changed and its texts as they are."""
    return re.sub(r"<[^>]*>", lambda match: change(match[0]), svg)
