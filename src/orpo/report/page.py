"""What a page is made of, in the order of reading, and how it becomes HTML.

What a page says stands in `templates/KIND.txt.jinja`, a block for each part of it. That is plain
text, for a page and for a terminal alike; the HTML templates escape it, as they escape everything
but the figures that we drew ourselves.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from orpo import quantities
from orpo.report import style, values

LONGEST = 4000


class Headline(NamedTuple):
    """A number as shown, with its uncertainty."""

    label: str
    value: str
    interval: str = ""
    tone: str = ""  # "better", "worse", or neither
    before: str = ""  # the value before training, where the page shows both
    bar: tuple[float, float] | None = None  # both in percent


class Table(NamedTuple):
    """Numbers side by side; the first column is a row's name, the others are set as numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture: `paint` draws on an empty figure of `size` inches."""

    name: str  # of its file: letters, digits and dashes
    title: str
    seen: str  # what there is to see in it, also its alternative text
    size: tuple[float, float]
    paint: style.Paint
    reading: str = ""  # how to read it
    numbers: Table | None = None  # what lies behind it

    @cached_property
    def svg(self) -> str:
        """As a file."""
        return style.svg(self.name, self.size, self.paint, f"{self.title}. {self.seen}")

    @property
    def inline(self) -> Markup:
        """On a page."""
        return Markup(style.inline(self.svg))  # noqa: S704 - matplotlib escapes its texts

    @property
    def png(self) -> bytes:
        """As a file."""
        return style.png(self.size, self.paint)


class Passage(NamedTuple):
    """A prompt and what was answered and said of it: (label, text), and short marks."""

    title: str
    parts: Sequence[tuple[str, str]]
    tags: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """A page of evidence in the order of reading: verdict first."""

    kicker: str
    title: str
    verdict: str
    remarks: Sequence[str] = ()
    headlines: Sequence[Headline] = ()
    facts: Sequence[tuple[str, str]] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    passages: Sequence[Passage] = ()
    head: str = ""  # of the verdict, where its `reasons` stand beside it
    reasons: Sequence[str] = ()
    tone: str = ""  # of the verdict: "better", "worse", "doubtful", or none of them
    passages_note: str = ""  # by which rule the examples were picked
    settings: Sequence[tuple[str, str]] = ()  # make the same page again
    more: dict[str, Any] = field(default_factory=dict)  # what the template shows beside
    template: str = "evaluation.html.jinja"
    again: int = 0  # seconds until it loads itself anew


def render(page: Page) -> str:
    """The page as HTML that needs nothing beside itself; the same page gives the same text.

    Names of figures hold letters, digits and dashes, and no two are alike: else a ValueError.
    """
    names = [one.name for one in page.figures]
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*", name) or names.count(name) > 1:
            raise ValueError(f"{name!r} cannot name a figure, or names two of this page")
    text = _HTML.get_template(page.template).render(page=page, longest=LONGEST, **page.more)
    return values.visible(text)


class Words:
    """What a template says of some values, by block: sentences, lines of cells, tables.

    What is put into a template cannot break its lines: see `_guarded`.
    """

    def __init__(self, kind: str, **given: Any) -> None:
        self._template = _TEXT.get_template(f"{kind}.txt.jinja")
        self._context = self._template.new_context(given)
        # What stands outside of the blocks, such as macros, is there for each of them.
        self._context.blocks = {name: [lambda _: iter(())] for name in self._template.blocks}
        list(self._template.root_render_func(self._context))

    def _text(self, block: str) -> str:
        found = self._template.blocks.get(block)
        return "".join(found(self._context)) if found else ""

    def all(self, block: str) -> tuple[str, ...]:
        """The sentences of a block: an empty line ends one."""
        parts = (" ".join(part.split("\n")) for part in re.split(r"\n\s*\n", self._text(block)))
        lines = (re.sub(r"[ \t\n]+", " ", _opened(part)).strip() for part in parts)
        lines = (re.sub(r"(?<=\d) %", "\u00a0%", line) for line in lines)
        return tuple(line for line in lines if line)

    def __getitem__(self, block: str) -> str:
        """A block as one text."""
        return " ".join(self.all(block))

    def lines(self, block: str) -> list[list[str]]:
        """The lines of a block, each taken apart at its bars."""
        lines = (line.strip() for line in self._text(block).split("\n"))
        return [[_opened(cell.strip()) for cell in line.split("|")] for line in lines if line]

    def facts(self) -> list[tuple[str, str]]:
        """Lines "label | value", without those that have no value."""
        return [(label, value) for label, value in self.lines("facts") if value]

    def headlines(self) -> list[Headline]:
        """Lines "label | value | interval | tone"."""
        return [Headline(*line[:4]) for line in self.lines("headlines")]  # type: ignore[arg-type]

    def tables(self) -> list[Table]:
        """Each is "# title", a line of heads, lines of cells, and perhaps "> note"."""
        found: list[Table] = []
        for line in filter(None, map(str.strip, self._text("tables").split("\n"))):
            cells = [_opened(cell.strip()) for cell in line.removeprefix("#").split("|")]
            if line.startswith("#"):
                found.append(Table(cells[0], [], []))
                continue
            last = found[-1]
            if line.startswith(">"):
                found[-1] = last._replace(note=f"{last.note} {_opened(line[1:].strip())}".strip())
            elif not last.columns:
                found[-1] = last._replace(columns=cells)
            else:
                found[-1] = last._replace(rows=[*last.rows, cells])
        return [one for one in found if one.rows]


def told(
    kind: str,
    figures: Callable[[Words], Iterable[Figure]],
    settings: Mapping[str, Any],
    passages: Iterable[Passage] = (),
    **given: Any,
) -> Page:
    """The page that a template makes of some values, with figures and examples."""
    words, shown = Words(kind, **given), tuple(passages)
    return Page(
        kicker=words["kicker"],
        title=words["title"],
        verdict=words["verdict"],
        remarks=words.all("remarks"),
        headlines=words.headlines(),
        facts=words.facts(),
        figures=tuple(figures(words)),
        tables=words.tables(),
        passages=shown,
        passages_note=words["passages"] if shown else "",
        settings=[(name, str(value)) for name, value in settings.items()],
    )


_GUARDS: dict[str, str | int | None] = {"\n": "\ue000", "|": "\ue001", "#": "\ue002", ">": "\ue003"}


_UNIT = re.compile(r"(?<=\d) (?=%|(?:pp|[kMGTPEZ]?FLOP|(?:[KMGT]i)?B)\b)")
"""Between a number and its unit no line breaks."""


class _Laid(str):
    """Text whose lines and bars are meant."""


def _guarded(value: object) -> object:
    """What is put into a template: its line breaks, bars and marks are none of the template's."""
    if isinstance(value, _Laid):
        return value
    return str(value).translate(str.maketrans(_GUARDS))


def _opened(text: str) -> str:
    for sign, guard in _GUARDS.items():
        text = text.replace(str(guard), sign)
    return _UNIT.sub("\u00a0", text)


def _paragraphs(sentences: Iterable[object]) -> _Laid:
    return _Laid("\n\n".join(str(_guarded(one)) for one in sentences))


def span(interval: Any, decimals: int = 1) -> str:
    """95 % interval 53.5 to 68.1; nothing where there is none."""
    ends = "" if interval is None else ends_of(interval, decimals)
    return ends and f"{100 * interval.level:.0f} % interval {ends}"


def ends_of(interval: Any, decimals: int = 1) -> str:
    """53.5 to 68.1; nothing where an end is not known."""
    low, high = interval.low, interval.high
    if low is None or high is None or math.isinf(low) or math.isinf(high):
        return ""
    return quantities.minus(f"{low:.{decimals}f} to {high:.{decimals}f}")


def pct(value: float | None) -> str:
    """What is in percent already: 14.7 %."""
    return "–" if value is None else f"{value:.1f} %"


def _coded(text: str) -> Markup:
    """Escaped text, what stands between backticks as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    code = Markup("<code>{}</code>")
    return Markup("").join(
        code.format(part) if i % 2 else escape(part) for i, part in enumerate(parts)
    )


def _environment(*, html: bool) -> Environment:
    made = Environment(
        loader=PackageLoader("orpo.report"),
        autoescape=html,  # noqa: S701 - the other makes plain text, which the pages escape
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=None if html else _guarded,
    )
    made.filters |= {
        "amount": quantities.as_count,
        "brief": quantities.as_amount,
        "bytes": quantities.as_bytes,
        "coded": _coded,
        "comma": "{:,}".format,
        "digits": lambda value, decimals: quantities.minus(f"{value:.{decimals}f}"),
        "duration": quantities.as_duration,
        "ends": ends_of,
        "flops": quantities.as_flops,
        "joined": quantities.joined,
        "laid": _Laid,
        "lowered": quantities.lowered,
        "listed": lambda given, sign: ", ".join(f"{k}{sign}{v}" for k, v in given.items()),
        "number": quantities.as_number,
        "paragraphs": _paragraphs,
        "pct": pct,
        "percent": quantities.as_percent,
        "plus": lambda value, decimals: quantities.minus(f"{value:+.{decimals}f}"),
        "sentence": quantities.sentence,
        "share": quantities.as_share,
        "shortened": values.shortened,
        "signed": quantities.signed,
        "span": span,
        "text": values.text_of,
        "two": lambda value: "–" if value is None else f"{value:.2f}",
        "visible": values.visible,
        "whole": lambda value: values.count(value) or 0,
    }
    made.tests["infinite"] = math.isinf
    return made


_HTML, _TEXT = _environment(html=True), _environment(html=False)
