"""A model behind an OpenAI-compatible server: where it is, what it replies, and what it refuses."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from orpo.errors import ConfigError, DataError
from orpo.evaluate.settings import JudgeSettings


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
        raise ConfigError(
            "is no address of a server",
            where=f"--server {server}",
            fix="Give one like http://localhost:8000.",
        )
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
