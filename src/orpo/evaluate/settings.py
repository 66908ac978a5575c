"""How answers are drawn, a judge is asked, benchmarks are run: what commands and Python can set."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from orpo.errors import ConfigError, require_package
from orpo.options import option

CACHE = "judge-cache.jsonl"
"""The file in an evaluation's folder that keeps every reply of the judge."""


def positive(text: str) -> int:
    """A whole number of at least 1, as a flag gives it."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        max_new_tokens: Longest answer in tokens.
        temperature: 0 takes the most probable token each time.
        top_p: Nucleus of the distribution that is drawn from.
        seed: Makes drawn answers repeatable.
        batch_size: Prompts at once.
    """

    max_new_tokens: int = option(
        256, help="longest answer; default 256", metavar="N", parse=positive
    )
    temperature: float = option(0.0, help="default 0, greedy", metavar="T")
    top_p: float = option(1.0, help="nucleus of what is drawn from; default 1", metavar="P")
    seed: int = option(42, help="of drawn answers; default 42", metavar="N")
    batch_size: int = option(16, help="prompts at once; default 16", metavar="N", parse=positive)

    def checked(self) -> Sampling:
        """The same; a ConfigError of a value that cannot be meant."""
        if self.temperature < 0:
            raise ConfigError("must not be negative", where="--temperature", fix="0 is greedy.")
        if not 0 < self.top_p <= 1:
            raise ConfigError("must be above 0 and at most 1", where="--top_p")
        return self


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
        backoff: Seconds that all requests wait for a busy server that does not say how long.
        price_in: Of a million tokens of requests, in the currency of your choice.
        price_out: Of a million tokens of replies.
        max_cost: Refuse to begin, or stop, where the cost would pass this.
        cache: A JSONL file that keeps every reply; nothing is kept if absent.
    """

    model: str = option(
        flag="judge", metavar="MODEL", help="name of the judge at its server, such as gpt-4o"
    )
    base_url: str | None = option(
        None,
        flag="judge_url",
        metavar="URL",
        help="its server, such as http://127.0.0.1:8000/v1; default $OPENAI_BASE_URL or OpenAI",
    )
    api_key_env: str = option(
        "OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable that holds the key; default OPENAI_API_KEY",
    )
    temperature: float | None = option(
        0.0,
        flag="judge_temperature",
        rare=True,
        metavar="T",
        parse=lambda text: None if text.lower() == "none" else float(text),
        help="default 0; `none` leaves it to the server",
    )
    seed: int = option(
        0,
        flag="judge_seed",
        rare=True,
        metavar="N",
        help="of the marks around answers and of the canaries; default 0",
    )
    max_tokens: int = option(
        1024,
        flag="judge_max_tokens",
        rare=True,
        metavar="N",
        help="longest reply, thoughts included; default 1024",
    )
    concurrency: int = option(8, rare=True, metavar="N", help="requests at once; default 8")
    requests_per_minute: float | None = option(
        None, rare=True, metavar="N", help="start at most so many a minute"
    )
    retries: int = option(
        6, rare=True, metavar="N", help="repetitions after a busy or broken server; default 6"
    )
    timeout: float = option(
        120.0,
        flag="judge_timeout",
        rare=True,
        metavar="SECONDS",
        help="for one request; default 120",
    )
    backoff: float = 1.0
    price_in: float | None = option(
        None, rare=True, metavar="P", help="of a million tokens of requests"
    )
    price_out: float | None = option(
        None, rare=True, metavar="P", help="of a million tokens of replies"
    )
    max_cost: float | None = option(
        None, rare=True, metavar="P", help="refuse what could cost more"
    )
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, and a judge that nobody can ask."""
        require_package("openai", where="--judge")

        def fits(value: float | None) -> bool:
            return value is None or (math.isfinite(value) and value >= 0)

        known = {
            "judge": bool(self.model.strip()),
            "judge_temperature": self.temperature is None or 0 <= self.temperature <= 2,
            "judge_max_tokens": self.max_tokens >= 1,
            "concurrency": self.concurrency >= 1,
            "requests_per_minute": self.requests_per_minute != 0 and fits(self.requests_per_minute),
            "retries": self.retries >= 0,
            "judge_timeout": self.timeout != 0 and fits(self.timeout),
            "price_in": fits(self.price_in),
            "price_out": fits(self.price_out),
            "max_cost": fits(self.max_cost),
        }
        for name, good in known.items():
            if not good:
                raise ConfigError("is not a value that can be meant", where=f"--{name}")
        if self.base_url is not None and urlsplit(self.base_url).scheme not in {"http", "https"}:
            raise ConfigError(
                "is not an address",
                where=f"--judge_url {self.base_url}",
                fix='Give one such as "http://127.0.0.1:8000/v1".',
            )
        if (self.price_in is None) != (self.price_out is None):
            raise ConfigError("one price alone tells no cost", where="--price_in, --price_out")
        if self.max_cost is not None and self.price_in is None:
            fix = "Give --price_in and --price_out, per million tokens."
            raise ConfigError("a limit needs prices", where="--max_cost", fix=fix)

    def kept_in(self, folder: Path) -> JudgeSettings:
        """The same, at $OPENAI_BASE_URL if no address was given, its replies kept in a folder.

        That there is no key where one is needed is said here, before any model has answered.
        """
        address = self.base_url or os.environ.get("OPENAI_BASE_URL") or None
        kept = replace(self, base_url=address, cache=folder / CACHE)
        if not (folder / CACHE).exists():
            kept.key()
        return kept

    def key(self) -> str:
        """The key that the environment variable holds; a server of one's own needs none."""
        key = os.environ.get(self.api_key_env, "").strip()
        if not key and self.base_url is None:
            raise ConfigError(
                "there is no API key",
                where=f"${self.api_key_env}",
                fix="Set this variable, or give --judge_url for a server that needs none.",
            )
        return key

    def as_dict(self) -> dict[str, Any]:
        """What a reader needs in order to ask the same; no key, and no path of this machine."""
        kept = {name: value for name, value in vars(self).items() if name != "cache"}
        if self.base_url is not None:
            parts = urlsplit(self.base_url)  # without user and password
            place = (parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")
            kept["base_url"] = urlunsplit(place)
        return kept


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",")))


@dataclass(frozen=True)
class HarnessPlan:
    """What is asked of the harness: tasks, groups or tags, and how."""

    tasks: tuple[str, ...] = option(
        parse=_names, help="names of tasks, groups or tags, with commas between them"
    )
    num_fewshot: int | None = option(None, help="examples; default as the task has it")
    limit: float | None = option(
        None, help="questions of each task, or a share below 1; default all"
    )
    include_path: str | None = option(None, metavar="DIR", help="tasks of your own, as YAML")
    apply_chat_template: bool = option(False, help="put questions into the chat template")
    batch_size: int = option(8, parse=positive, help="default 8")
    run_unsafe_code: bool = option(False, help="allow tasks that run code which the model wrote")

    def __post_init__(self) -> None:
        """Check what can be checked without the harness."""
        if not self.tasks or not all(self.tasks):
            raise ConfigError("names no task", where="--tasks", fix="Such as --tasks ifeval.")
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise ConfigError("must not be negative", where="--num_fewshot")
        if self.limit is not None and self.limit <= 0:
            raise ConfigError("must be above 0", where="--limit", fix="Leave it out for all.")
        if self.limit is not None and self.limit > 1 and self.limit != int(self.limit):
            raise ConfigError("is no number of questions", where=f"--limit {self.limit}")
        if self.include_path is not None and not Path(self.include_path).is_dir():
            raise ConfigError("no such folder", where=f"--include_path {self.include_path}")
