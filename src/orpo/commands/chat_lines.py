"""What a user says in a chat: edited and remembered where a terminal can, else read as it comes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from orpo.commands.console import console

try:
    import readline
except ImportError:  # not on Windows
    readline = None  # type: ignore[assignment]

__all__ = ["HISTORY", "Lines", "history_file"]

HISTORY = "~/.local/state/orpo/chat_history"
_MOST = 1000
_PROMPT = "you> "


def history_file() -> Path:
    """Where lines are kept from chat to chat: $XDG_STATE_HOME/orpo, or `HISTORY`."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) / "orpo" / Path(HISTORY).name) if state else Path(HISTORY).expanduser()


class Lines:
    """The lines of stdin that hold something, until it ends; for a `with` block and a loop.

    In a terminal, arrows edit them and recall earlier ones, also those of earlier chats. What is
    piped in is never kept.

    Args:
        keep: Remember the lines for the next chat, in a file that only the user can read.
    """

    def __init__(self, *, keep: bool) -> None:
        self._typed = sys.stdin.isatty()
        self._edited = self._typed and sys.stdout.isatty() and readline is not None
        self._keep = keep and self._edited
        self._said: list[str] = []

    def __enter__(self) -> Lines:
        """Recall what earlier chats have kept."""
        if self._edited:
            readline.clear_history()
            readline.set_auto_history(False)
        if self._keep:
            for line in _kept():
                readline.add_history(line)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Keep what was said; a disk that cannot is no reason to fail."""
        if self._keep and self._said:
            with contextlib.suppress(OSError):
                _write([*_kept(), *self._said][-_MOST:])

    def __iter__(self) -> Iterator[str]:
        """Each line, without white space around it."""
        while True:
            try:
                line = self._next()
            except (EOFError, KeyboardInterrupt):
                return
            if line is None:
                return
            if line.strip():
                self._remember(line.strip())
                yield line.strip()

    def _next(self) -> str | None:
        if self._edited:
            return input(_PROMPT)
        if self._typed:  # stdout goes elsewhere
            return console.input(_PROMPT)
        line = sys.stdin.readline()
        return line or None

    def _remember(self, line: str) -> None:
        if not self._edited:
            return
        if not self._said or self._said[-1] != line:
            readline.add_history(line)
            self._said.append(line)


def _kept() -> list[str]:
    try:
        return history_file().read_text(encoding="utf-8").split("\n")[:-1]
    except (OSError, UnicodeDecodeError):
        return []


def _write(lines: list[str]) -> None:
    path = history_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
        file.writelines(f"{line}\n" for line in lines)
    fresh.replace(path)
