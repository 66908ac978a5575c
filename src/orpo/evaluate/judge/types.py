"""What goes to a judge and what comes back: settings, requests, replies, pairs and answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from orpo.evaluate.settings import JudgeSettings

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
