"""A model behind an OpenAI-compatible server: where it is, what it replies, how it is paced.

Several requests go at once, not too many in a minute, and all wait when a server asks them to.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from multiprocessing.pool import ThreadPool
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

from orpo.errors import ConfigError, DataError
from orpo.evaluate.settings import JudgeSettings
from orpo.terminal import Say, silent

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE = 120.0  # seconds that a server may ask us to wait; the client waits no longer, either


class Refused(DataError):  # noqa: N818 - the error is what the server said
    """The server will not answer this one question."""

    said = ""  # what it says
    too_long = False  # because there is no room for an answer to it


class Unanswered(ConfigError):  # noqa: N818 - the error is what the server said
    """Nobody answers, or the server stayed busy or broken."""

    all_are = False  # the next question would fare no better


@dataclass(frozen=True)
class Reply:
    """What a model said to the request of a key."""

    key: str
    text: str  # empty where the model said nothing
    finish_reason: str = ""  # "stop", "length" if cut off, ...; "refused" if there is an error
    model: str = ""  # as the server reports it, which can be more exact than the name asked for
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached: bool = False  # it was not asked for now
    error: str = ""  # why the server will not answer this one request


@dataclass(frozen=True)
class Endpoint:
    """A model's server, how to show oneself to it, and how patient to be."""

    model: str
    address: str  # without user and password, for messages
    flag: str  # by which it was named
    env: str  # the environment variable with its key
    url: str | None = field(repr=False)  # where requests go; OpenAI's own if absent
    key: str = field(repr=False)  # in no message and no file
    seconds: float = 600.0  # that a request may take
    retries: int = 5

    def clean(self, text: str) -> str:
        """A text without the key, should the server repeat it."""
        return text.replace(self.key, "***") if len(self.key) >= 8 else text


def endpoint_at(model: str, server: str, api_key_env: str) -> Endpoint:
    """A model at an address: with a path, or "/v1" is meant; a variable not set means no key."""
    try:
        parts = urlsplit(server)
        known = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known:
        fix = "Give one like http://localhost:8000."
        raise ConfigError("is no address of a server", where=f"--server {server}", fix=fix)
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    address = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "", ""))
    url = urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))
    key = os.environ.get(api_key_env, "").strip()
    return Endpoint(model, address, "--server", api_key_env, url, key)


def endpoint_of(judge: JudgeSettings) -> Endpoint:
    """The judge at its server."""
    return Endpoint(
        model=judge.model,
        address=judge.as_dict()["base_url"] or "OpenAI",
        flag="--judge_url",
        env=judge.api_key_env,
        url=judge.base_url,
        key=judge.key(),
        seconds=judge.timeout,
        retries=judge.retries,
    )


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The others have stopped; this one is not begun."""


class Pacer:
    """Lets requests go, evenly spaced, and makes all wait for a busy server."""

    def __init__(
        self,
        per_minute: float | None = None,
        backoff: float = 1.0,  # seconds to wait where a busy server does not say how long
        say: Say = silent,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gap, self._backoff, self._say = 60.0 / per_minute if per_minute else 0.0, backoff, say
        self._clock, self._next, self._lock = clock, clock(), threading.Lock()
        self.stop = threading.Event()

    def book(self) -> float:
        """Take the next free moment; how many seconds away it is."""
        with self._lock:
            now = self._clock()
            moment = max(now, self._next)
            self._next = moment + self._gap
            return moment - now

    def busy(self, headers: Mapping[str, str]) -> None:
        """A server is busy: nobody goes before it can be asked again."""
        asked = retry_after(headers)
        seconds = self._backoff if asked is None else asked
        if seconds > PATIENCE:
            return
        with self._lock:
            until = self._clock() + seconds
            longer = until >= self._next + 1
            self._next = max(self._next, until)
        if longer:
            self._say(f"the judge's server is busy; waiting {seconds:.0f} s")

    def wait(self) -> None:
        """Wait for a free moment; `Stopped` once the others have stopped."""
        if self.stop.wait(self.book()):
            raise Stopped


def in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], threads: int, stop: threading.Event
) -> Iterator[tuple[Item, Result | Exception]]:
    """Do some work on each item, several at a time; results as they come.

    After `stop` is set no further item is begun, and what is under way still comes: it may have
    been paid for. The threads do not keep the process alive: an interrupt ends it at once.
    """

    def tried(item: Item) -> tuple[Item, Result | Exception]:
        try:
            return item, Stopped() if stop.is_set() else work(item)
        except Exception as error:
            return item, error

    with ThreadPool(min(threads, len(items)) or 1) as pool:
        try:
            for item, result in pool.imap_unordered(tried, items):
                if not isinstance(result, Stopped):
                    yield item, result
        finally:
            stop.set()


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, which a server gives as a number or as a date."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / scale
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    try:
        until = parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, (until - datetime.now(until.tzinfo)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
