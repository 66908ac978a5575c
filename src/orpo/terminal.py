"""What a terminal is shown: everything printed passes here, and nothing foreign steers the screen.

Data, file names, models, templates and servers are of strangers. What they say is printed as text:
terminal escapes, other control characters, orders to write backwards, unseen characters and what
no encoding can hold are spelled out (`\\x1b`, `\\u202e`). Letters of every script, emoji and the
joiners within them stay. Only what orpo draws itself (`rich`, through `unguarded`) is let through.
"""

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any, TextIO, TypeAlias, cast

Say: TypeAlias = Callable[[str], None]
"""Is told, line by line and in prose, what happens."""
Advance: TypeAlias = Callable[[float], None]
"""Is told how much more of a piece of work is done."""
Bars: TypeAlias = Callable[[str, float | None], AbstractContextManager[Advance]]


def unseen(_done: float) -> None:
    """An `Advance` that nobody sees."""


_BARS: ContextVar[Bars] = ContextVar("bars", default=lambda *_: nullcontext(unseen))


def under_way(what: str, total: float | None = None) -> AbstractContextManager[Advance]:
    """Around a long piece of work: a command shows it as a bar, a library call shows nothing."""
    return _BARS.get()(what, total)


@contextlib.contextmanager
def showing(bars: Bars) -> Iterator[None]:
    """Within the block what is `under_way` is shown."""
    before = _BARS.set(bars)
    try:
        yield
    finally:
        _BARS.reset(before)


_STEERING = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and line feed, DEL, C1
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff"
)
_UNSAFE = re.compile(f"[{_STEERING}]")


def silent(line: str) -> None:
    """A `Say` that says nothing."""


def spelled_out(text: str) -> str:
    """The text with every character spelled out that would steer a terminal or cannot be shown."""
    return _UNSAFE.sub(_spelled, text.replace("\r\n", "\n"))


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def json_line(value: Any) -> str:
    """A value as JSON on one line: what is spelled out stays JSON, and says the same."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8", "surrogatepass")
    except (UnicodeEncodeError, LookupError):
        return json.dumps(value)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class _Guarded:
    """A text stream on which what is written is spelled out.

    Args:
        stream: Where it goes.
        bars: Progress bars return to the start of their line.
    """

    def __init__(self, stream: TextIO, *, bars: bool = False) -> None:
        self.stream, self._bars = stream, bars

    def write(self, text: str) -> int:
        """Write the text such that it is read as it stands."""
        returns = self._bars and text.startswith("\r")
        self.stream.write(("\r" if returns else "") + spelled_out(text[returns:]))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each of the lines."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Within the block whatever is printed, logged or raised is shown as text."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (shown_as_text(one) for one in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def shown_as_text(stream: Any) -> Any:
    """A stream on which everything is shown as text."""
    if stream is None or isinstance(stream, _Guarded):
        return stream
    with contextlib.suppress(AttributeError, OSError):  # a terminal may not have every letter
        stream.reconfigure(errors="backslashreplace")
    return _Guarded(stream)


def unguarded(stream: Any) -> Any:
    """The stream itself: for what orpo draws, whose foreign parts are spelled out already."""
    return stream.stream if isinstance(stream, _Guarded) else stream


def progress_stream() -> TextIO:
    """stderr for a progress bar of `tqdm`, which returns to the start of its line."""
    return cast(TextIO, _Guarded(unguarded(sys.stderr), bars=True))
