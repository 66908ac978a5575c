"""What goes to a judge and what comes back: settings, requests, replies, pairs and answers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from orpo.errors import ConfigError

__all__ = [
    "Chat",
    "Comparison",
    "JudgeSettings",
    "Reply",
    "Request",
    "Say",
    "Single",
    "silent",
]

Chat: TypeAlias = Sequence[Mapping[str, str]]
"""A conversation: [{"role", "content"}]."""

Say: TypeAlias = Callable[[str], None]
"""Takes one line of prose."""


def silent(line: str) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class JudgeSettings:
    """Which judge is asked, and how.

    Attributes:
        model: Name of the judge at its server.
        base_url: An OpenAI-compatible server, such as "http://127.0.0.1:8000/v1"; OpenAI's own
            if absent.
        api_key_env: The environment variable that holds the key; the key itself is never kept.
        temperature: 0 takes the most probable verdict; None leaves it to the server.
        seed: Of the marks around answers and of the choice of canaries; sent along with a
            temperature above 0.
        max_tokens: Longest reply in tokens, thoughts of a reasoning model included.
        concurrency: Requests at once.
        requests_per_minute: At most so many are started in a minute.
        retries: How often a request is repeated after a busy or broken server.
        timeout: Seconds that one request may take.
        backoff: Seconds before the first repetition; doubled for each further one.
        price_in: Of a million tokens of requests, in the currency of your choice.
        price_out: Of a million tokens of replies.
        max_cost: Refuse to begin, or stop, where the cost would pass this.
        cache: A JSONL file that keeps every reply; nothing is kept if absent.
    """

    model: str
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    temperature: float | None = 0.0
    seed: int = 0
    max_tokens: int = 1024
    concurrency: int = 8
    requests_per_minute: float | None = None
    retries: int = 6
    timeout: float = 120.0
    backoff: float = 1.0
    price_in: float | None = None
    price_out: float | None = None
    max_cost: float | None = None
    cache: Path | None = None

    def __post_init__(self) -> None:
        _check(self)

    def as_dict(self) -> dict[str, Any]:
        """What a reader needs in order to ask the same; no key, and no path of this machine."""
        kept = {name: value for name, value in vars(self).items() if name not in {"cache"}}
        return {**kept, "base_url": _without_password(self.base_url)}


def _check(given: JudgeSettings) -> None:
    wrong = {
        "judge": not given.model.strip(),
        "judge_temperature": given.temperature is not None and not 0 <= given.temperature <= 2,
        "judge_max_tokens": given.max_tokens < 1,
        "concurrency": given.concurrency < 1,
        "requests_per_minute": _not_positive(given.requests_per_minute),
        "retries": given.retries < 0,
        "judge_timeout": not (math.isfinite(given.timeout) and given.timeout > 0),
        "price_in": _negative(given.price_in),
        "price_out": _negative(given.price_out),
        "max_cost": _negative(given.max_cost),
    }
    for name, bad in wrong.items():
        if bad:
            raise ConfigError("is not a value that can be meant", where=f"--{name}")
    if given.base_url is not None and urlsplit(given.base_url).scheme not in {"http", "https"}:
        raise ConfigError(
            "is not an address",
            where=f"--judge_url {given.base_url}",
            fix='Give one such as "http://127.0.0.1:8000/v1".',
        )
    if (given.price_in is None) != (given.price_out is None):
        raise ConfigError("one price alone tells no cost", where="--price_in, --price_out")
    if given.max_cost is not None and given.price_in is None:
        raise ConfigError(
            "a limit needs prices",
            where="--max_cost",
            fix="Give --price_in and --price_out, per million tokens.",
        )


def _not_positive(value: float | None) -> bool:
    return value is not None and not (math.isfinite(value) and value > 0)


def _negative(value: float | None) -> bool:
    return value is not None and not (math.isfinite(value) and value >= 0)


def _without_password(address: str | None) -> str | None:
    if address is None:
        return None
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@dataclass(frozen=True)
class Request:
    """One question to the judge.

    Attributes:
        messages: The conversation that it completes.
        max_tokens: Instead of the settings' own.
        temperature: Instead of the settings' own.
        top_logprobs: Ask for so many alternatives of each token of the reply, and their
            log-probabilities; 0 asks for none.
    """

    messages: Chat
    max_tokens: int | None = None
    temperature: float | None = None
    top_logprobs: int = 0

    def key(self, settings: JudgeSettings) -> str:
        """sha256 of all that decides the reply: equal requests are asked once."""
        temperature = settings.temperature if self.temperature is None else self.temperature
        facts = {
            "server": settings.base_url,
            "model": settings.model,
            "messages": [dict(message) for message in self.messages],
            "max_tokens": self.max_tokens or settings.max_tokens,
            "temperature": temperature,
            "seed": settings.seed if temperature else None,
            "top_logprobs": self.top_logprobs,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Reply:
    """What the judge said.

    Attributes:
        key: Of its request.
        text: The reply; empty where the judge said nothing.
        finish_reason: As reported: "stop", "length" for a reply that was cut off, ...;
            "refused" where the server will not answer this one request.
        model: As the server reports it, which can be more exact than the name asked for.
        prompt_tokens: As reported, or None.
        completion_tokens: As reported, or None.
        logprobs: For each token of the reply {token: log-probability}, if asked for.
        cached: It was not asked for now.
        error: Why the server refused this request, or nothing.
    """

    key: str
    text: str
    finish_reason: str = ""
    model: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    logprobs: tuple[Mapping[str, float], ...] = ()
    cached: bool = False
    error: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two answers to one prompt.

    Attributes:
        id: Its name in results.
        prompt: A text or a conversation.
        first: An answer, such as the baseline's.
        second: Another, such as the model's; a preference of 1 is for this one.
        group: Observations of one prompt share it: intervals draw prompts; the id if empty.
    """

    id: str
    prompt: str | Chat
    first: str
    second: str
    group: str = ""


@dataclass(frozen=True)
class Single:
    """An answer to be graded.

    Attributes:
        id: Its name in results.
        prompt: A text or a conversation.
        answer: The answer.
        reference: A right answer, or nothing.
        group: Observations of one prompt share it: intervals draw prompts; the id if empty.
        flags: What the caller has against the answer already; see `suspicions`.
    """

    id: str
    prompt: str | Chat
    answer: str
    reference: str = ""
    group: str = ""
    flags: tuple[str, ...] = ()
