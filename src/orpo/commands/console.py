"""What a person sees: prose, tables and progress on stderr, so that stdout stays for results."""

from __future__ import annotations

import re
import webbrowser
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from orpo.quantities import beside
from orpo.runs.files import read_run
from orpo.terminal import spelled_out, unguarded

if TYPE_CHECKING:
    from orpo.jobs import TrainResult


class Screen(Console):
    """A console that adds colours and moves the cursor; texts that are put on it cannot."""

    @property
    def file(self) -> IO[str]:
        """The stream under the guard."""
        return unguarded(super().file)  # type: ignore[no-any-return]

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def show_cursor(self, show: bool = True) -> bool:
        """The cursor is never hidden: whatever kills the process leaves the terminal as it was."""
        return show

    def render_str(self, text: str, **how: Any) -> Text:
        """As in rich, of a text that is spelled out: before it is laid out, so that it fits."""
        return super().render_str(spelled_out(text), **how)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As in rich; only rich's own orders to the terminal are let through."""
        for segment in super().render(renderable, options):
            clean = segment.text if segment.control else spelled_out(segment.text)
            yield segment if clean == segment.text else Segment(clean, segment.style)


console = Screen(stderr=True, highlight=False, emoji=False)

_POINTS = 3  # of a diagnosis, that a terminal shows

_WIDE, _OPENING = "\u3040-\u30ff\u3400-\u9fff", "（「『【《“"
_CLOSING = "、。，．：；！？）」』】》”"
_PIECE = re.compile(rf"\s*[{_OPENING}]*(?:[{_WIDE}]|[^\s{_WIDE}{_OPENING}]+)[{_CLOSING}]*|\s*\S")
"""What is not broken: a word, a path, a Chinese or Japanese letter with its punctuation."""


def say(line: str) -> None:
    """One line of prose; in a terminal it breaks between words, elsewhere it stays one line."""
    text = spelled_out(line)
    if console.is_terminal:
        text = "\n".join(_wrapped(one, console.width) for one in text.split("\n"))
    console.print(Text(text), soft_wrap=True)


def _wrapped(line: str, width: int) -> str:
    rows, indent = [""], line[: len(line) - len(line.lstrip())]
    for piece in _PIECE.findall(line):
        if rows[-1].strip() and cell_len(rows[-1] + piece) > width:
            rows.append(indent)
            piece = piece.lstrip()  # noqa: PLW2901 - the space is where the line breaks
        rows[-1] += piece
    return "\n".join(rows)


def open_page(page: Path) -> None:
    """In the browser; where there is no display, a line says so."""
    try:
        found = webbrowser.get()
        if not isinstance(found, webbrowser.GenericBrowser) and found.open(page.resolve().as_uri()):
            return
    except webbrowser.Error:
        pass
    say(f"no browser can be opened here; the page is {page}")


def say_diagnosis(result: TrainResult) -> dict[str, Any]:
    """What the curves of a finished run point to, and what to try; the same for JSON."""
    from orpo.report.diagnosis import diagnosis_of  # noqa: PLC0415 - when there is a run

    found = diagnosis_of(read_run(result.output_dir), result.verdict.word)
    say(f"diagnosis: {found.summary}")
    for one in found.look[:_POINTS]:
        say(f"  {one.title}. {one.evidence}")
        say(f"  → {one.advice}")
    if len(found.look) > _POINTS:
        say("  More of this is in the report.")
    return found.as_dict()


def before_after_table(
    evaluation: Mapping[str, Mapping[str, Any]],
    title: str,
    recipe: Mapping[str, Any] | None = None,
) -> Table:
    """Held-out metrics before and after training, one row each."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for name in ("before", "after"):
        table.add_column(name, justify="right")
    for _, *cells in beside(evaluation.get("before", {}), evaluation["after"], recipe):
        table.add_row(*cells)
    return table


def rows_table(columns: list[str], rows: list[list[str]], *, lines: bool = True) -> Table:
    """A table of plain texts, with lines between rows of several lines each."""
    table = Table(show_lines=lines)
    for name in columns:
        table.add_column(Text(spelled_out(name)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(spelled_out(cell)) for cell in row))
    return table
