"""How figures look: one matplotlib style; the same bytes every time; text stays text.

A figure is painted in `COLOURS`. In a file of its own it is light on white; on a page its colours
become the variables of the style sheet, so that it is legible on light and on dark paper. Texts
that data could have named (a model, a category, a task) go through `plain`.
"""

import io
import re
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas
from matplotlib.font_manager import fontManager
from matplotlib.ticker import FixedLocator, Locator

COLOURS = {
    "ink": "#1e2227",
    "muted": "#5d646d",
    "rule": "#e5e1d8",
    "paper": "#ffffff",
    "chosen": "#0063a6",
    "rejected": "#bf4a00",
    "nll": "#00725a",
    "violet": "#c8589f",
    "gold": "#a98600",
}
"""The light colours of page.css by the names of its variables."""

DASHED, DOTTED = (0, (5, 1.6)), (0, (2, 2))

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": COLOURS["rule"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": COLOURS["muted"],
    **{f"axes.spines.{side}": False for side in ("left", "right", "top")},
    "axes.titlesize": 11,
    "figure.constrained_layout.h_pad": 0.07,
    "figure.facecolor": COLOURS["paper"],
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Noto Sans", "Segoe UI", "Helvetica Neue", "Arial"],
    "font.size": 11,
    "grid.color": COLOURS["rule"],
    "hatch.linewidth": 0.7,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": COLOURS["ink"],
    "text.parse_math": False,  # a dollar sign in a model's name is a dollar sign
    **{f"{axis}tick.color": COLOURS["muted"] for axis in "xy"},
    **{f"{axis}tick.{which}.size": 0 for axis in "xy" for which in ("major", "minor")},
    **{f"{axis}tick.major.pad": 6 for axis in "xy"},
}
_FALLBACKS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Microsoft YaHei"),
    *("Noto Serif CJK SC", "Noto Sans Arabic", "Noto Sans Devanagari"),
)
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


class Style(NamedTuple):
    """How one of several series is drawn, to be told apart without its colour too."""

    colour: str
    dash: str | tuple[int, tuple[float, ...]]
    marker: str
    hatch: str


SERIES = (
    Style(COLOURS["chosen"], "solid", "o", ""),
    Style(COLOURS["rejected"], DASHED, "s", "//"),
    Style(COLOURS["nll"], (0, (1, 1.2)), "^", "||"),
    Style(COLOURS["violet"], (0, (6, 1.5, 1, 1.5)), "D", "\\\\"),
    Style(COLOURS["gold"], (0, (9, 2)), "v", "xx"),
    Style(COLOURS["ink"], (0, (3, 1.2, 1, 1.2, 1, 1.2)), "P", "--"),
)
"""Six series beside each other, in this order: the first is the one that the page is about."""
Paint = Callable[[Canvas], None]


def plain(text: object, limit: int = 40) -> str:
    """A text from data, safe for a figure: one short line, nothing in it that is not seen.

    Control characters and marks of writing direction go (XML cannot hold them), and a leading
    underscore does not hide a legend's entry.
    """
    kept = (
        " " if c.isspace() else "" if unicodedata.category(c) in _UNSEEN else c for c in str(text)
    )
    line = " ".join("".join(kept).split())
    if width(line) > limit:
        while width(line) >= limit:
            line = line[:-1].rstrip()
        line += "…"
    return "‗" + line[1:] if line.startswith("_") else line


def width(text: str) -> int:
    """How many letters fit into its place: Chinese ones take two."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def legend(canvas: Canvas, handles: Sequence[Any]) -> None:
    """Above the plots, in as many columns as there is room for."""
    for columns in range(min(len(handles), 3), 0, -1):
        rows, left = divmod(len(handles), columns)
        ends = [i * rows + min(i, left) for i in range(columns + 1)]
        parts = [handles[first:last] for first, last in pairwise(ends)]
        if sum(max(5.5 * width(one.get_label()) for one in part) + 48 for part in parts) < (
            72 * canvas.get_figwidth()
        ):
            break
    canvas.legend(handles=handles, loc="outside upper left", ncols=columns)


def svg(name: str, size: tuple[float, float], paint: Paint, title: str) -> str:
    """What `paint` puts on an empty figure of `size` inches, as an SVG file with a title.

    The name goes into its ids, so that two figures of one page don't share any.
    """
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    metadata = {**nothing, "Title": plain(title, 2000)}
    file = _painted(size, paint, {"svg.hashsalt": name}, format="svg", metadata=metadata)
    return re.sub(r"\s*<metadata>.*?</metadata>", "", file.decode(), flags=re.DOTALL)


def inline(picture: str) -> str:
    """An SVG file as an element of a page, in the page's colours."""
    names = {value: name for name, value in COLOURS.items()}
    element = picture[picture.index("<svg") :]
    element = re.sub(r'(?<=<g) id="[^"]*"', "", element)  # the next figure has the same ones
    return re.sub(
        r"(?<=: )#[0-9a-f]{6}", lambda found: f"var(--{names.get(found[0], 'ink')})", element
    )


def png(size: tuple[float, float], paint: Paint) -> bytes:
    """What `paint` puts on an empty figure as a PNG of 200 dots per inch."""
    found = set(fontManager.get_font_names())
    family = ["DejaVu Sans", *(name for name in _FALLBACKS if name in found)]
    metadata = {"Software": None}
    return _painted(size, paint, {"font.family": family}, format="png", dpi=200, metadata=metadata)


def _painted(
    size: tuple[float, float], paint: Paint, settings: Mapping[str, Any], **saved: Any
) -> bytes:
    with mpl.rc_context({**STYLE, **settings}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure, file = Canvas(figsize=size, layout="constrained"), io.BytesIO()
        paint(figure)
        figure.savefig(file, **saved)
    return file.getvalue()


def rows(axes: Axes, labels: Sequence[str], *, labelled: bool = True) -> None:
    """Axes of a list, a line for each label, the first on top; the grid is upright."""
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), [plain(label) for label in labels])
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"], labelleft=labelled)


def dress(axis: Axis, label: str = "", ticks: Locator | None = None, names: Any = None) -> None:
    """An axis with its label, where its ticks stand and how they are written."""
    if label:
        axis.set_label_text(label)
    if ticks is not None:
        axis.set_major_locator(ticks)
    if names is not None:
        axis.set_major_formatter(names)


def shares(axes: Axes) -> None:
    """Axes whose heights are shares, from 0 to all."""
    axes.set_ylim(-0.03, 1.03)
    dress(axes.yaxis, "", FixedLocator([0, 0.25, 0.5, 0.75, 1]), percent)


def percent(share: float, _: object = None) -> str:
    """A share at an axis."""
    return f"{100 * share:.4g} %"
