"""Answers as they are made: streamed, in two columns of a terminal, or in blocks with labels."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.live import Live
from rich.table import Table
from rich.text import Text

from orpo.commands.console import Screen
from orpo.jobs.chat_job import Chat, Side
from orpo.runs import short_name
from orpo.terminal import spelled_out

__all__ = ["screen_for"]

_FRAME = 7  # characters of a line that are lines and margins of the two columns
_ABOVE_AND_BELOW = 5  # lines that are not the answers'


def screen_for(chat: Chat, *, silent: bool) -> Callable[[Chat, str], None]:
    """How a question is asked and its answers are shown on stdout.

    Args:
        chat: One model or two.
        silent: Show nothing.
    """
    if silent:
        return _unseen
    if len(chat.sides) == 1:
        return _streamed
    return _in_columns if sys.stdout.isatty() else _in_blocks


def _unseen(chat: Chat, text: str) -> None:
    chat.ask(text, lambda _side: lambda _piece: None)


def _streamed(chat: Chat, text: str) -> None:
    chat.ask(text, lambda _side: _print)
    print(flush=True)


def _print(piece: str) -> None:
    print(piece, end="", flush=True)


def _in_blocks(chat: Chat, text: str) -> None:
    """For a file or a program: whose answer it is, the answer, an empty line."""

    def begin(side: Side) -> Callable[[str], None]:
        print(f"{'' if side is chat.sides[0] else chr(10) * 2}[{short_name(side.speaker.name)}]")
        return _print

    chat.ask(text, begin)
    print("\n", flush=True)


def _in_columns(chat: Chat, text: str) -> None:
    """Two columns that grow as the models answer, one after the other.

    While they grow, the last lines are shown that the terminal has room for.
    """
    said = {side.speaker.name: Text() for side in chat.sides}
    console = Screen(highlight=False, emoji=False)
    width, room = (console.width - _FRAME) // 2, max(1, console.height - _ABOVE_AND_BELOW)

    def drawn(*, whole: bool = False) -> Table:
        table = Table(expand=True)
        for name in said:
            table.add_column(Text(spelled_out(short_name(name))), ratio=1, overflow="fold")
        if whole:
            table.add_row(*said.values())
        else:
            ends = (one.wrap(console, width, overflow="fold")[-room:] for one in said.values())
            table.add_row(*(Text("\n").join(lines) for lines in ends))
        return table

    with Live(
        drawn(),
        console=console,
        auto_refresh=False,
        redirect_stdout=False,  # rich would take escapes in it for colours
        redirect_stderr=False,
    ) as live:

        def begin(side: Side) -> Callable[[str], None]:
            def hear(piece: str) -> None:
                said[side.speaker.name].append(spelled_out(piece))
                live.update(drawn(), refresh=True)

            return hear

        try:
            chat.ask(text, begin)
        finally:
            live.update(drawn(whole=True))
