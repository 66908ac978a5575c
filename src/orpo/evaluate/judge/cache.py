"""Replies on disk: one line each, written as they come in, so that nothing is asked twice."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from orpo.errors import ConfigError
from orpo.evaluate.judge.types import Reply
from orpo.runs import parse_json

__all__ = ["ReplyCache"]

_KEPT = (
    "key",
    "text",
    "finish_reason",
    "model",
    "prompt_tokens",
    "completion_tokens",
    "logprobs",
)


class ReplyCache:
    """A JSONL file of replies, by the keys of their requests; a context manager.

    Many threads may add to it. A line that was cut off by a kill is passed over, and its request
    asked again.

    Args:
        path: The file; nothing is written if absent.

    Raises:
        ConfigError: It cannot be read or written.
    """

    def __init__(self, path: Path | None) -> None:
        self._replies: dict[str, Reply] = {}
        self._file: int | None = None
        self._lock = threading.Lock()
        if path is not None:
            try:
                self._open(path)
            except OSError as error:
                raise ConfigError(
                    f"the judge's replies cannot be kept ({error.strerror})", where=str(path)
                ) from error

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes() if path.exists() else b""
        for line in data.splitlines():
            reply = _read(line)
            if reply is not None:
                self._replies[reply.key] = reply
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if data and not data.endswith(b"\n"):
            os.write(self._file, b"\n")

    def __enter__(self) -> ReplyCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            os.close(self._file)

    def __contains__(self, key: str) -> bool:
        return key in self._replies

    def __getitem__(self, key: str) -> Reply:
        return self._replies[key]

    def add(self, reply: Reply) -> None:
        """Keep a reply, after which the process may be killed; a refusal only for this run."""
        values = {name: getattr(reply, name) for name in _KEPT}
        data = (json.dumps(values, ensure_ascii=False) + "\n").encode("utf-8", "replace")
        with self._lock:
            self._replies[reply.key] = reply
            while data and self._file is not None and not reply.error:
                data = data[os.write(self._file, data) :]


def _read(line: bytes) -> Reply | None:
    """The reply that a line holds, or None for one that is broken."""
    try:
        values: Any = parse_json(line)
        if not isinstance(values, Mapping) or not isinstance(values["text"], str):
            return None
        known = {name: values[name] for name in _KEPT if name in values}
        known["logprobs"] = tuple(known.get("logprobs") or ())
        return Reply(**known, cached=True)
    except (ValueError, TypeError, KeyError):
        return None
