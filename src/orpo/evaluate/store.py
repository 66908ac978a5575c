"""What was answered, in a file of JSON lines: a process that is killed loses none of it.

Answers and a judge's replies are kept so, each under a key that says what was asked:

    {"id": "81", "prompt": "...", "answer": "...", ..., "key": "..."}
    {"key": "...", "text": "...", "finish_reason": "stop", ...}
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from orpo.errors import ConfigError, DataError
from orpo.evaluate.pacing import Say
from orpo.runs.reading import parse_json
from orpo.runs.writing import write_text

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps two runs apart
    fcntl = None  # type: ignore[assignment]

ANOTHER = "Give another file, or --overwrite."


class Store:
    """Lines by their keys, in the order of the file; in memory alone without a file."""

    def __init__(
        self, path: Path | None, descriptor: int, lines: dict[str, dict[str, Any]]
    ) -> None:
        self.path, self.lines = path, lines
        self._descriptor, self._lock = descriptor, threading.Lock()

    def add(self, line: dict[str, Any]) -> None:
        """Keep a line: once this returns, no end of the process can lose it."""
        with self._lock:
            self.lines[line["key"]] = line
            if self.path is not None:
                _write(self._descriptor, _text(line))

    def put_in_order(self, keys: Sequence[str]) -> None:
        """Bring the lines into the order of some keys, others at the end."""
        order = [key for key in keys if key in self.lines]
        order += [key for key in self.lines if key not in set(order)]
        if self.path is not None and order != list(self.lines):
            self.lines = {key: self.lines[key] for key in order}
            write_text(self.path, "".join(map(_text, self.lines.values())))


@contextlib.contextmanager
def open_store(
    path: Path | None,
    check: Callable[[dict[str, Any]], object],
    *,
    begins: str,
    strict: bool,
    say: Say,
) -> Iterator[Store]:
    """A file's lines, for this process alone as long as it is open.

    Args:
        path: The file; made with its folder if it is not there.
        check: Raises a ValueError, KeyError or TypeError of what is no such line.
        begins: How each line begins, to tell what a killed process left from somebody's own file.
        strict: Refuse a broken line; else it is passed over, and what it held asked again.
        say: Told if the last line was cut off by the end of a process; it is dropped.

    Raises:
        ConfigError: The file cannot be written, or another process writes it.
        DataError: A line is none of ours.
    """
    if path is None:
        yield Store(None, -1, {})
        return
    descriptor = _open(path)
    try:
        yield Store(path, descriptor, _read(path, descriptor, check, begins, strict, say))
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise ConfigError(
            "is a folder, not a file"
            if path.is_dir()
            else f"cannot be written to ({error.strerror})",
            where=str(path),
            fix="Give the name of a JSONL file.",
        ) from error
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(
            "another process is writing answers here",
            where=str(path),
            fix="Wait for it, or give another file.",
        ) from None
    except OSError:  # this disk keeps no locks
        return descriptor
    return descriptor


def _read(
    path: Path,
    descriptor: int,
    check: Callable[[dict[str, Any]], object],
    begins: str,
    strict: bool,
    say: Say,
) -> dict[str, dict[str, Any]]:
    """Key -> line; what a killed process left of its last line is taken off the file."""
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    lines: dict[str, dict[str, Any]] = {}
    for number, text in enumerate(content[:end].split(b"\n"), 1):
        line = _parsed(text, check) if text.strip() else None
        if line is not None:
            lines.setdefault(line["key"], line)
        elif text.strip() and strict:
            raise _not_ours(f"{path}:{number}")
    rest, ours = content[end:], begins.encode()
    if rest.strip():
        line = _parsed(rest, check)
        if line is not None:  # an editor may have taken off the last line break
            lines.setdefault(line["key"], line)
            _write(descriptor, "\n")
            return lines
        if strict and not (rest.startswith(ours) or ours.startswith(rest)):
            raise _not_ours(str(path))
        say(f"{path}: the last line was cut off; it is dropped, and its question asked again")
    os.ftruncate(descriptor, end)
    return lines


def _parsed(text: bytes, check: Callable[[dict[str, Any]], object]) -> dict[str, Any] | None:
    try:
        line = parse_json(text)
        if not (isinstance(line, dict) and isinstance(line["key"], str)):
            return None
        check(line)
    except (ValueError, KeyError, TypeError):
        return None
    return line


def _not_ours(where: str) -> DataError:
    return DataError("is no answer that was kept here", where=where, fix=ANOTHER)


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


def _write(descriptor: int, text: str) -> None:
    left = text.encode("utf-8", errors="surrogatepass")
    while left:
        left = left[os.write(descriptor, left) :]
