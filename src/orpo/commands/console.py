"""What a person sees: prose, tables and progress on stderr, so that stdout stays for results."""

from collections.abc import Iterable, Mapping
from typing import IO, Any

from rich.box import SIMPLE
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from orpo.terminal import spelled_out, unguarded


class Screen(Console):
    """A console that adds colours and moves the cursor; texts that are put on it cannot."""

    @property
    def file(self) -> IO[str]:
        """The stream under the guard."""
        return unguarded(super().file)  # type: ignore[no-any-return]

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

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

_LABELS = {
    "preference_accuracy": "prefers the chosen answer",
    "correct_answers": "greedy answers checked correct",
    "log_odds_chosen": "log odds ratio, mean",
    "logps/chosen": "log-probability per token, chosen",
    "logps/rejected": "log-probability per token, rejected",
    "nll_loss": "NLL of the chosen text",
    "loss": "ORPO loss",
}
_SHARES = {"preference_accuracy", "correct_answers"}


def say(line: str) -> None:
    """One line of prose; nothing in it is taken for markup."""
    console.print(escape(line), soft_wrap=True)


def before_after_table(before: Mapping[str, Any], after: Mapping[str, Any], title: str) -> Table:
    """Held-out metrics before and after training, one row each."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for name in ("before", "after"):
        table.add_column(name, justify="right")
    for name, label in _LABELS.items():
        if name in after:
            table.add_row(label, _shown(name, before.get(name)), _shown(name, after[name]))
    return table


def figures_table(title: str, *heads: str, named: bool = True) -> Table:
    """A table of figures, a column at the right for each head; lines may have a name first."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE, padding=(0, 1, 0, 0)
    )
    if named:
        table.add_column("", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def rows_table(columns: list[str], rows: list[list[str]], *, lines: bool = True) -> Table:
    """A table of plain texts, with lines between rows of several lines each."""
    table = Table(show_lines=lines)
    for name in columns:
        table.add_column(Text(spelled_out(name)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(spelled_out(cell)) for cell in row))
    return table


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if name in _SHARES else f"{value:.3f}"
