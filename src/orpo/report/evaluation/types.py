"""What a page of evidence is made of: words, numbers and figures, in the order of reading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["Figure", "Headline", "Page", "Passage", "Table"]


@dataclass(frozen=True)
class Headline:
    """A number that a reader came for.

    Attributes:
        label: What it is, in a few words.
        value: As shown, with its unit: "14.7 %".
        interval: Its uncertainty as shown: "95 % interval 12.1 to 17.3"; or nothing.
        tone: "better", "worse", or nothing where neither can be said.
    """

    label: str
    value: str
    interval: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
        name: Letters, digits and dashes: its ids on the page, and its file name.
        title: What it shows.
        caption: What there is to see in it, in words; also its alternative text.
        size: Width and height in inches.
        paint: Draws on an empty figure, in `report.svg.COLOURS` only. Texts that come from data
            or from a recipe go through `report.svg.plain`, or matplotlib would read their dollar
            signs as mathematics.
    """

    name: str
    title: str
    caption: str
    size: tuple[float, float]
    paint: Callable[[Canvas], None]


@dataclass(frozen=True)
class Table:
    """Numbers side by side.

    Attributes:
        title: What it shows.
        columns: Heads; the first column is a row's name, the others are set as numbers.
        rows: As many cells as there are columns, each as shown.
        note: A sentence below it, or nothing.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Passage:
    """A prompt and what was answered and said of it.

    Attributes:
        title: Such as a question's number and category.
        parts: (label, text): "Prompt", "Before", "After", "The judge"; shown as plain text.
        tags: Short marks, such as "flagged: forged verdict".
    """

    title: str
    parts: tuple[tuple[str, str], ...]
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """A page of evidence: verdict first.

    Attributes:
        kicker: The kind of page: "MT-Bench".
        title: What it is about: the model's name.
        verdict: One sentence, with its uncertainty.
        remarks: What has to be said beside it: unparsed verdicts, gullible judges, small samples.
        headlines: The numbers.
        facts: (label, value): models, data, judge, cost, and what else a reader asks for.
        figures: The pictures.
        tables: The numbers behind them.
        passages: Examples, picked by a rule that `passages_note` states.
        passages_note: How the examples were picked.
        settings: (name, value): the recipe, and the command that makes the same page again.
    """

    kicker: str
    title: str
    verdict: str
    remarks: tuple[str, ...] = ()
    headlines: tuple[Headline, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    passages: tuple[Passage, ...] = ()
    passages_note: str = ""
    settings: tuple[tuple[str, str], ...] = ()
