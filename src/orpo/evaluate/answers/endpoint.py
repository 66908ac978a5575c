"""Where an OpenAI-compatible server is, and what its refusals mean in one line."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from orpo.errors import ConfigError, DataError, UserError

__all__ = ["Endpoint", "endpoint_at", "is_about_length", "wants_other_limit"]

_RETRIES = 5  # of the client, with growing pauses: 408, 409, 429, 5xx, lost connections
_TIMEOUT = 600.0  # seconds for one answer
_LONGEST = 200  # characters of a server's own words
_START = "Start it (`vllm serve MODEL`, `transformers serve`), or correct --server."
_NO_SUCH_SERVER = ("answers, but not as an OpenAI-compatible server", _START)
_TROUBLE = {  # by the class of the error, its own before those above it
    "APITimeoutError": (f"did not answer within {_TIMEOUT:.0f} s", "See its log."),
    "APIConnectionError": ("no server answers", _START),
    "APIResponseValidationError": _NO_SUCH_SERVER,
    "AttributeError": _NO_SUCH_SERVER,  # a web page instead of an answer
    "IndexError": _NO_SUCH_SERVER,
    "TypeError": _NO_SUCH_SERVER,
    "ValueError": _NO_SUCH_SERVER,
    "KeyError": _NO_SUCH_SERVER,
    "RecursionError": _NO_SUCH_SERVER,
}


@dataclass(frozen=True)
class Endpoint:
    """A server and how to show oneself to it.

    Attributes:
        address: Where it is, without user and password, for messages.
        env: The environment variable with its key.
        url: Where requests go.
        key: The key; in no message and no file.
    """

    address: str
    env: str
    url: str = field(repr=False)
    key: str = field(repr=False)

    def client(self) -> Any:
        """The official client.

        Raises:
            ConfigError: It is not installed.
        """
        try:
            from orpo.evaluate.served import connect  # noqa: PLC0415 - it needs an extra
        except ImportError as error:
            raise ConfigError(
                "needs the openai package", where="--server", fix="pip install 'orpo[evaluate]'"
            ) from error
        # A server without keys takes any; the client insists on one.
        return connect(self.url, self.key or "none", seconds=_TIMEOUT, retries=_RETRIES)

    def explain(self, error: Exception, model: str, question: str) -> UserError | None:
        """What a client's error means; None where it is no such error.

        Args:
            error: What the client raised.
            model: Who was asked.
            question: The id of what was asked.
        """
        unusable = self._unusable(error)
        if unusable is not None:
            return unusable
        status = getattr(error, "status_code", None)
        if status in {401, 403}:
            return self._refused(status)
        if status in {400, 413, 422}:
            return self._unasked(error, model, question)
        if status is not None:
            return self._failed(error, model, status)
        return self._trouble(error)

    def _trouble(self, error: Exception) -> ConfigError | None:
        names = {cls.__name__ for cls in type(error).__mro__}
        for name, (what, fix) in _TROUBLE.items():
            if name in names:
                return ConfigError(what, where=self.address, fix=fix)
        return None

    def _unusable(self, error: Exception) -> ConfigError | None:
        from orpo.evaluate.served import Elsewhere, Unusable  # noqa: PLC0415 - it needs an extra

        found = error if isinstance(error, Unusable) else error.__cause__
        if isinstance(found, Elsewhere):
            fix = "Give that address itself if it is the server's."
            return ConfigError(f"{found}; nothing was sent there", where=self.address, fix=fix)
        if isinstance(found, Unusable):
            return ConfigError(f"gave {found}", where=self.address, fix=_START)
        return None

    def _failed(self, error: Exception, model: str, status: int) -> ConfigError:
        words = self._words(error)
        if status == 404:
            return ConfigError(
                f"knows no model {model!r}, or speaks no OpenAI protocol ({words})",
                where=self.address,
                fix="Give the model as the server calls it, and the server's address.",
            )
        return ConfigError(
            f"failed again and again with status {status} ({words})",
            where=self.address,
            fix=f"See its log; does it have {model!r}?",
        )

    def _refused(self, status: int) -> ConfigError:
        if self.key:
            what, fix = f"refuses the key in ${self.env} (status {status})", "Set the right one."
        else:
            what, fix = "asks for a key", f"Put it into ${self.env}, or name another variable."
        return ConfigError(what, where=self.address, fix=fix)

    def _unasked(self, error: Exception, model: str, question: str) -> UserError:
        words = self._words(error)
        return DataError(
            f"{self.address} refuses to answer as {model!r} ({words})",
            where=f"question {question!r}" if question else "",
            fix="Answers that are finished are kept: correct it and run the same again.",
        )

    def _words(self, error: Exception) -> str:
        """What the server said, short, harmless and without the key."""
        body = getattr(error, "body", None)
        said = body.get("message") or body.get("detail") if isinstance(body, dict) else body
        text = " ".join(str(said or getattr(error, "message", "") or "").split())
        if self.key:
            text = text.replace(self.key, "***")
        short = f"{text[:_LONGEST]}..." if len(text) > _LONGEST else text
        return short or "it says no more"


def endpoint_at(server: str, api_key_env: str) -> Endpoint:
    """The server at an address.

    Args:
        server: "http://localhost:8000" or with a path; without one, "/v1" is meant.
        api_key_env: Environment variable with its key; one that is not set means no key.

    Raises:
        ConfigError: The address is none.
    """
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
    host = parts.netloc.rpartition("@")[2]
    return Endpoint(
        address=urlunsplit((parts.scheme, host, path, "", "")),
        env=api_key_env,
        url=urlunsplit((parts.scheme, parts.netloc, path, parts.query, "")),
        key=os.environ.get(api_key_env, "").strip(),
    )


def wants_other_limit(error: Exception) -> bool:
    """Whether a server takes the limit of tokens under its newer name only."""
    refused = getattr(error, "status_code", None) in {400, 422}
    return refused and "max_completion_tokens" in str(error)


def is_about_length(error: Exception) -> bool:
    """Whether a server has no room left for an answer to so long a conversation."""
    if getattr(error, "status_code", None) not in {400, 413, 422}:
        return False
    text = str(error).lower()
    return "context_length" in text or "context length" in text
