"""A page of evidence as HTML, and its figures as files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from orpo.report.evaluation.types import Figure, Page, Passage
from orpo.report.svg import alone, drawn, pixels
from orpo.report.template import rendered
from orpo.report.values import lasting
from orpo.runs import write_bytes, write_text

__all__ = ["FIGURES", "Drawing", "draw_figures", "render_evaluation", "save_figures"]

FIGURES = "figures"
_LONGEST_TEXT = 4000
_TONES = {"better": "better", "worse": "worse"}


@dataclass(frozen=True)
class Drawing:
    """A figure and the `<svg>` element that was drawn of it."""

    figure: Figure
    svg: str


def draw_figures(figures: tuple[Figure, ...]) -> list[Drawing]:
    """Draw the figures of a page.

    Raises:
        ValueError: A name holds more than letters, digits and dashes, or is there twice.
    """
    names = [one.name for one in figures]
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*", name) or names.count(name) > 1:
            raise ValueError(f"{name!r} cannot name a figure, or names two of this page")
    return [Drawing(one, drawn(one.name, one.size, one.paint)) for one in figures]


def render_evaluation(page: Page, drawings: list[Drawing]) -> str:
    """The page as HTML; the same page gives the same text."""
    return rendered(
        "evaluation/page.html.jinja",
        page=page,
        drawings=drawings,
        passages=[_shortened(one) for one in page.passages],
        tone=lambda name: _TONES.get(name, ""),
    )


def save_figures(drawings: list[Drawing], folder: Path) -> list[Path]:
    """Write each figure as NAME.svg and NAME.png: light colours on white."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for one in drawings:
        vector, raster = (folder / f"{one.figure.name}.{end}" for end in ("svg", "png"))
        text = alone(one.svg, one.figure.title, one.figure.caption)
        write_text(vector, text)
        write_bytes(raster, pixels(one.figure.size, one.figure.paint))
        written += [vector, raster]
    return written


def _shortened(passage: Passage) -> Passage:
    parts = tuple((label, lasting(text, _LONGEST_TEXT)) for label, text in passage.parts)
    return Passage(lasting(passage.title, 200), parts, passage.tags)
