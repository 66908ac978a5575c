"""Drawings as SVG, by hand: few shapes, colours by name, light and dark, the same bytes every time.

A drawing stands in READMEs and on the site as an image, where no style sheet reaches it: it brings
its own, which follows the reader's light or dark preference and lies on a card of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

__all__ = ["Drawing"]

_LIGHT = {
    "card": "#ffffff",
    "tint": "#f5f3ee",
    "ink": "#1e2227",
    "muted": "#5d646d",
    "rule": "#d9d5cb",
    "blue": "#0063a6",
    "orange": "#bf4a00",
    "green": "#00725a",
}
_DARK = {
    "card": "#1b1e23",
    "tint": "#24282f",
    "ink": "#e7e5df",
    "muted": "#a3aab4",
    "rule": "#3a3f47",
    "blue": "#62b6f2",
    "orange": "#f39a5c",
    "green": "#4fcba6",
}
_SANS = (
    "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue','Noto Sans',"
    "'PingFang SC','Microsoft YaHei','Noto Sans CJK SC',Arial,sans-serif"
)


@dataclass
class Drawing:
    """Shapes on a card of some width and height, in px; colours are names of the palette.

    Attributes:
        width: Of the card.
        height: Of the card.
        title: Read aloud in place of the picture, and a viewer's tooltip.
        description: What there is to see, in a sentence or two.
    """

    width: int
    height: int
    title: str
    description: str
    _shapes: list[str] = field(default_factory=list)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 14,
        colour: str = "ink",
        anchor: str = "start",
        bold: bool = False,
    ) -> None:
        """One line of words; `y` is where it stands on."""
        weight = ' font-weight="600"' if bold else ""
        self._shapes.append(
            f'<text class="{colour}" x="{x:g}" y="{y:g}" font-size="{size:g}" '
            f'text-anchor="{anchor}"{weight}>{escape(words, quote=False)}</text>'
        )

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str = "tint",
        edge: str = "",
        dashed: bool = False,
        round_: float = 6,
    ) -> None:
        """A rectangle with round corners."""
        line = f' stroke="var(--{edge})" stroke-width="1.5"' if edge else ""
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self._shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{round_:g}" '
            f'fill="{_fill(fill)}"{line}{dashes}/>'
        )

    def line(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        *,
        colour: str = "rule",
        thick: float = 1,
        dashed: bool = False,
    ) -> None:
        """A straight line."""
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self._shapes.append(
            f'<line x1="{start[0]:g}" y1="{start[1]:g}" x2="{end[0]:g}" y2="{end[1]:g}" '
            f'stroke="var(--{colour})" stroke-width="{thick:g}"{dashes}/>'
        )

    def arrow_down(self, x: float, y: float, length: float, *, colour: str = "muted") -> None:
        """An arrow from (x, y) downwards."""
        self.line((x, y), (x, y + length - 5), colour=colour, thick=1.5)
        tip = y + length
        self._shapes.append(
            f'<path d="M{x - 5:g} {tip - 7:g}L{x:g} {tip:g}L{x + 5:g} {tip - 7:g}Z" '
            f'fill="var(--{colour})"/>'
        )

    def dot(self, x: float, y: float, radius: float, *, fill: str, edge: str = "") -> None:
        """A disc, or with `fill="none"` a ring."""
        line = f' stroke="var(--{edge})" stroke-width="2"' if edge else ""
        self._shapes.append(
            f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{_fill(fill)}"{line}/>'
        )

    def svg(self) -> str:
        """The file's text."""
        palette = [
            "svg{" + _variables(_LIGHT) + "}",
            "@media (prefers-color-scheme:dark){svg{" + _variables(_DARK) + "}}",
            f"text{{font-family:{_SANS}}}",
            *(f".{name}{{fill:var(--{name})}}" for name in _LIGHT),
        ]
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
                f'width="{self.width}" height="{self.height}" role="img">',
                f"<title>{escape(self.title, quote=False)}</title>",
                f"<desc>{escape(self.description, quote=False)}</desc>",
                f"<style>{''.join(palette)}</style>",
                f'<rect width="{self.width}" height="{self.height}" rx="10" fill="var(--card)"/>',
                *self._shapes,
                "</svg>",
                "",
            ]
        )


def _fill(name: str) -> str:
    return name if name == "none" else f"var(--{name})"


def _variables(palette: dict[str, str]) -> str:
    return ";".join(f"--{name}:{value}" for name, value in palette.items())
