"""Bars: how far a long piece of work is, and the time that is left for it.

What is `under_way` anywhere gets one; those that are open stand below each other. Where stderr is
no terminal, a line now and then says the same.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from orpo.commands.console import console, say
from orpo.terminal import Advance, shown_as_text

_QUIET = 0.5  # seconds before a bar is drawn
_SELDOM = 60.0  # seconds between the lines that stand for a bar where there is no terminal
_LONGEST, _SHORTEST = 20, 4


def drawn() -> bool:
    """Whether bars can be drawn."""
    return console.is_terminal and not console.is_dumb_terminal


class Bar:
    """How far a piece of work is, `done` of `total`, and what it takes."""

    def __init__(self, what: str, total: float | None = None, done: float = 0.0) -> None:
        self.what, self.total, self.done = what, total, done
        self.numbers: Sequence[str] = ()
        self.begun = self.at = self.told = time.monotonic()  # `at`: when the last part was done
        self._warm: tuple[float, float] | None = None  # when the first part was, and how much

    def advance(self, more: float = 1.0) -> None:
        """So much more is done."""
        self.done += more
        self.at = time.monotonic()
        self._warm = self._warm or (self.at, self.done)

    @property
    def ahead(self) -> float | None:
        """Seconds from `at` on; the first part, which warms up and compiles, counts for nothing."""
        if self.total is None or self._warm is None or self.done <= self._warm[1]:
            return None
        since, done = self._warm
        return (self.at - since) / (self.done - done) * max(0.0, self.total - self.done)

    @property
    def left(self) -> str:
        """12:34 left; nothing as long as nobody knows."""
        ahead = self.ahead
        if ahead is None:
            return ""
        return f"{as_clock(max(0.0, ahead - (time.monotonic() - self.at)))} left"

    @property
    def head(self) -> str:
        """Scoring 320/2000."""
        if self.total is None:
            return f"{self.what} {self.done:,.0f}"
        return f"{self.what} {int(min(self.done, self.total))}/{self.total:.0f}".strip()

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        if time.monotonic() - self.begun < _QUIET:
            return
        tails = ["  ".join(filter(None, [*self.numbers, self.left]))]
        room = options.max_width - cell_len(self.head) - 2
        if room - cell_len(tails[0]) < _SHORTEST:  # then in two lines
            tails = [self.left, "  ".join(self.numbers)]
        yield Text(self.head, end=" ")
        if self.total:
            width = max(_SHORTEST, min(_LONGEST, room - cell_len(tails[0])))
            yield ProgressBar(self.total, min(self.done, self.total), width)
        yield Text(f" {tails[0]}")
        yield from (Text(one, no_wrap=True, overflow="ellipsis") for one in tails[1:])


class Bars:
    """Those that are open."""

    def __init__(self) -> None:
        self._open: list[Bar] = []
        self._live: Live | None = None
        self._stderr: Any = None

    def add(self, bar: Bar) -> None:
        """Show one more."""
        self._open.append(bar)
        if drawn() and self._live is None:
            # What others print while bars are drawn stands above them, as text.
            self._stderr, sys.stderr = sys.stderr, shown_as_text(FileProxy(console, sys.stderr))
            self._live = Live(
                self, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()

    def remove(self, bar: Bar) -> None:
        """Take one away; nothing is left of it on the screen."""
        if bar in self._open:
            self._open.remove(bar)
        if not self._open and self._live is not None:
            self._live.stop()
            self._live, sys.stderr = None, self._stderr

    @contextmanager
    def around(self, what: str, total: float | None) -> Iterator[Advance]:
        """A bar for what is `under_way`."""
        bar = Bar(what, total)

        def advance(more: float) -> None:
            bar.advance(more)
            if not drawn() and bar.at - bar.told >= _SELDOM:
                bar.told = bar.at
                say(" · ".join(filter(None, [bar.head, bar.left])))

        self.add(bar)
        try:
            yield advance
        finally:
            self.remove(bar)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        yield from self._open
        yield ""  # the cursor rests below, at the start of a line: where a killed process leaves it


BARS = Bars()


def as_clock(seconds: float) -> str:
    """0:07, 12:34, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
