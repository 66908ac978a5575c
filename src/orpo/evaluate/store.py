"""What was answered, in a file of JSON lines: a process that is killed loses none of it.

Answers and a judge's replies are kept so, each under a key that says what was asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from orpo.errors import ConfigError, DataError
from orpo.evaluate.asking import Say
from orpo.runs.reading import parse_json
from orpo.runs.writing import write_text

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps two runs apart
    fcntl = None  # type: ignore[assignment]

ANOTHER = "Give another file, or --overwrite."
_NOT_OURS = "is no answer that was kept here"

Line: TypeAlias = dict[str, Any]
Check: TypeAlias = Callable[[Line], object]
"""Raises a ValueError, KeyError or TypeError of what is no line of the store."""


class Store:
    """Lines by their keys, in the order of the file; in memory alone without a file."""

    def __init__(self, path: Path | None = None, descriptor: int = -1) -> None:
        self.path = path
        self.lines: dict[str, Line] = {}
        self._descriptor, self._lock = descriptor, threading.Lock()

    def add(self, line: Line) -> None:
        """Keep a line: once this returns, no end of the process can lose it."""
        with self._lock:
            self.lines[line["key"]] = line
            if self.path is not None:
                self._write(_text(line))

    def put_in_order(self, keys: Sequence[str]) -> None:
        """Bring the lines into the order of some keys, others at the end."""
        order = [key for key in dict.fromkeys([*keys, *self.lines]) if key in self.lines]
        if self.path is not None and order != list(self.lines):
            self.lines = {key: self.lines[key] for key in order}
            write_text(self.path, "".join(map(_text, self.lines.values())))

    def read(self, path: Path, check: Check, begins: str, strict: bool, say: Say) -> None:
        """Take in the file; what a killed process left of its last line is taken off it."""
        content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        for number, text in enumerate(content[:end].split(b"\n"), 1):
            if text.strip() and not self._take(text, check) and strict:
                raise DataError(_NOT_OURS, where=f"{path}:{number}", fix=ANOTHER)
        rest, ours = content[end:], begins.encode()
        if rest.strip():
            if self._take(rest, check):  # an editor may have taken off the last line break
                self._write("\n")
                return
            if strict and not (rest.startswith(ours) or ours.startswith(rest)):
                raise DataError(_NOT_OURS, where=str(path), fix=ANOTHER)
            say(f"{path}: the last line was cut off; it is dropped, and its question asked again")
        os.ftruncate(self._descriptor, end)

    def _take(self, text: bytes, check: Check) -> bool:
        """Whether a line is one of ours; of those with one key the first counts."""
        try:
            line = parse_json(text)
            if not (isinstance(line, dict) and isinstance(line["key"], str)):
                return False
            check(line)
        except (ValueError, KeyError, TypeError):
            return False
        self.lines.setdefault(line["key"], line)
        return True

    def _write(self, text: str) -> None:
        left = text.encode("utf-8", errors="surrogatepass")
        while left:
            left = left[os.write(self._descriptor, left) :]


@contextlib.contextmanager
def open_store(
    path: Path | None, check: Check, *, begins: str, strict: bool, say: Say
) -> Iterator[Store]:
    """A file's lines, for this process alone as long as it is open; it is made if need be.

    `begins` is how each line begins, to tell what a killed process left from somebody's own file.
    A broken line is refused if `strict`; else it is passed over, and what it held asked again.
    """
    if path is None:
        yield Store()
        return
    descriptor = _open(path)
    try:
        store = Store(path, descriptor)
        store.read(path, check, begins, strict, say)
        yield store
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        why = f"cannot be written to ({error.strerror})"
        what, fix = "is a folder, not a file" if path.is_dir() else why, "Name a JSONL file."
        raise ConfigError(what, where=str(path), fix=fix) from error
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        what, fix = "another process is writing answers here", "Wait for it, or give another file."
        raise ConfigError(what, where=str(path), fix=fix) from None
    except OSError:  # this disk keeps no locks
        pass
    return descriptor


def _text(line: Line) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"
