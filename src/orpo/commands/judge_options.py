"""The flags of a judge, for a command whose options are no dataclass yet."""

from __future__ import annotations

import argparse
from pathlib import Path

from orpo.evaluate.settings import JudgeSettings


def add_judge_flags(parser: argparse.ArgumentParser) -> None:
    """Which judge, how fast, and what it may cost; dashes are accepted."""
    group = parser.add_argument_group(
        "the judge", "any OpenAI-compatible server; the key comes from an environment variable"
    )
    _add(group, "judge", metavar="MODEL", help="name of the judge at its server, such as gpt-4o")
    _add(
        group,
        "judge_url",
        metavar="URL",
        help="its server, such as http://127.0.0.1:8000/v1; default $OPENAI_BASE_URL or OpenAI",
    )
    _add(
        group,
        "api_key_env",
        default=JudgeSettings.api_key_env,
        metavar="NAME",
        help="environment variable that holds the key; default OPENAI_API_KEY",
    )
    _add(
        group,
        "judge_temperature",
        type=_temperature,
        default=JudgeSettings.temperature,
        metavar="T",
        help="default 0; `none` leaves it to the server",
    )
    _add(
        group,
        "judge_max_tokens",
        type=int,
        default=JudgeSettings.max_tokens,
        metavar="N",
        help=f"longest reply, thoughts included; default {JudgeSettings.max_tokens}",
    )
    _add(
        group,
        "judge_seed",
        type=int,
        default=JudgeSettings.seed,
        metavar="N",
        help="of the marks around answers and of the canaries; default 0",
    )
    _add_pace(group)
    _add_cost(group)


def judge_settings(given: argparse.Namespace, folder: Path) -> JudgeSettings | None:
    """`JudgeSettings` from the flags, its replies kept in the folder; None without --judge.

    Raises:
        ConfigError: A value that cannot be meant, or no key where one is needed: said here, before
            any model has answered.
    """
    if given.judge is None:
        return None
    return JudgeSettings(
        model=given.judge,
        base_url=given.judge_url,
        api_key_env=given.api_key_env,
        temperature=given.judge_temperature,
        seed=given.judge_seed,
        max_tokens=given.judge_max_tokens,
        concurrency=given.concurrency,
        requests_per_minute=given.requests_per_minute,
        retries=given.retries,
        timeout=given.judge_timeout,
        price_in=given.price_in,
        price_out=given.price_out,
        max_cost=given.max_cost,
    ).kept_in(folder)


def _add_pace(group: argparse._ArgumentGroup) -> None:
    _add(
        group,
        "concurrency",
        type=int,
        default=JudgeSettings.concurrency,
        metavar="N",
        help=f"requests at once; default {JudgeSettings.concurrency}",
    )
    _add(
        group,
        "requests_per_minute",
        type=float,
        metavar="N",
        help="start at most so many a minute",
    )
    _add(
        group,
        "retries",
        type=int,
        default=JudgeSettings.retries,
        metavar="N",
        help=f"repetitions after a busy or broken server; default {JudgeSettings.retries}",
    )
    _add(
        group,
        "judge_timeout",
        type=float,
        default=JudgeSettings.timeout,
        metavar="SECONDS",
        help=f"for one request; default {JudgeSettings.timeout:g}",
    )


def _add_cost(group: argparse._ArgumentGroup) -> None:
    _add(group, "price_in", type=float, metavar="P", help="of a million tokens of requests")
    _add(group, "price_out", type=float, metavar="P", help="of a million tokens of replies")
    _add(group, "max_cost", type=float, metavar="P", help="refuse what could cost more")


def _add(
    group: argparse._ArgumentGroup,
    name: str,
    *,
    help: str,  # noqa: A002 - argparse's own name
    metavar: str,
    type: object = str,  # noqa: A002 - argparse's own name
    default: object = None,
) -> None:
    flags = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
    assert callable(type)
    group.add_argument(*flags, dest=name, type=type, default=default, metavar=metavar, help=help)


def _temperature(text: str) -> float | None:
    return None if text.lower() == "none" else float(text)
