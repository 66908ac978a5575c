"""The judge's flags."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from orpo.commands.judge_options import CACHE, add_judge_flags, judge_settings
from orpo.errors import ConfigError
from orpo.evaluate.judge import JudgeSettings


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_judge_flags(parser)
    return parser.parse_args(arguments)


def test_without_a_judge_there_are_no_settings() -> None:
    assert judge_settings(parsed(), Path("out")) is None


def test_the_defaults_are_the_settings_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    own = judge_settings(parsed("--judge", "gpt-4o"), Path("out"))
    assert own == JudgeSettings("gpt-4o", cache=Path("out") / CACHE)


def test_every_flag_is_read_with_dashes_too() -> None:
    given = (
        "--judge m --judge-url http://127.0.0.1:1/v1 --api-key-env KEY --judge-temperature none "
        "--judge-max-tokens 5 --judge-seed 3 --concurrency 2 --requests-per-minute 30 --retries 1 "
        "--judge-timeout 9 --price-in 1 --price-out 2 --max-cost 3"
    )
    own = judge_settings(parsed(*given.split()), Path("out"))
    expected = JudgeSettings(
        "m", "http://127.0.0.1:1/v1", "KEY", None, 3, 5, 2, 30.0, 1, 9.0, 1.0, 1.0, 2.0, 3.0
    )
    assert own == replace(expected, cache=Path("out") / CACHE)
    underscored = [word.replace("-", "_").replace("__", "--") for word in given.split()]
    assert judge_settings(parsed(*underscored), Path("out")) == own


def test_a_value_that_cannot_be_meant() -> None:
    given = parsed("--judge", "m", "--judge_url", "http://h/v1", "--max_cost", "3")
    with pytest.raises(ConfigError, match="--max_cost: a limit needs prices"):
        judge_settings(given, Path("out"))


def test_a_missing_key_is_said_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match=r"\$OPENAI_API_KEY: there is no API key"):
        judge_settings(parsed("--judge", "m"), tmp_path)
    (tmp_path / CACHE).write_text("")  # all that is wanted may be there
    assert judge_settings(parsed("--judge", "m"), tmp_path)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    own = judge_settings(parsed("--judge", "m"), tmp_path / "other")
    assert own is not None
    assert own.base_url == "http://127.0.0.1:1/v1"
