"""A judge's settings and flags: what cannot be meant, and the key, which is nowhere."""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orpo.commands.flags import add_options, options_from
from orpo.errors import ConfigError
from orpo.evaluate.settings import CACHE, JudgeSettings
from orpo.options import group
from tests.evaluate.judge.server import Asked, Fail, ScriptedServer
from tests.evaluate.judge.test_judge_client import KEY, complete, requests, settings


@dataclass(frozen=True)
class Options:
    judge: JudgeSettings | None = group(JudgeSettings, "the judge", unless="model")


def judge(arguments: str, folder: Path = Path("out")) -> JudgeSettings | None:
    parser = argparse.ArgumentParser()
    add_options(parser, Options)
    found = options_from(parser.parse_args(arguments.split()), Options).judge
    return found and found.kept_in(folder)


def test_every_flag_is_read_with_dashes_too() -> None:
    given = (
        "--judge m --judge-url http://127.0.0.1:1/v1 --api-key-env KEY --judge-temperature none "
        "--judge-max-tokens 5 --judge-seed 3 --concurrency 2 --requests-per-minute 30 --retries 1 "
        "--judge-timeout 9 --price-in 1 --price-out 2 --max-cost 3"
    )
    expected = JudgeSettings(
        "m", "http://127.0.0.1:1/v1", "KEY", None, 3, 5, 2, 30.0, 1, 9.0, 1.0, 1.0, 2.0, 3.0
    )
    assert judge(given) == replace(expected, cache=Path("out") / CACHE)
    assert judge(given.replace("-", "_").replace("__", "--")) == judge(given)
    assert judge("") is None


def test_a_missing_key_is_said_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match=r"\$OPENAI_API_KEY: there is no API key.*--judge_url"):
        judge("--judge m", tmp_path)
    (tmp_path / CACHE).write_text("")  # all that is wanted may be there
    assert judge("--judge m", tmp_path) == JudgeSettings("m", cache=tmp_path / CACHE)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    assert judge("--judge m", tmp_path / "other").base_url == "http://127.0.0.1:1/v1"


def test_the_key_is_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)

    def repeats(asked: Asked) -> str | Fail:
        assert asked.headers["authorization"] == f"Bearer {KEY}"  # it did reach the server
        if asked.number % 3 == 0:
            return Fail(500, f"internal error with {asked.headers['authorization']}")
        if asked.last == "question 4":
            return Fail(400, f"not with {KEY}")
        return f"your key is {KEY}"

    said: list[str] = []
    with ScriptedServer(repeats) as server:
        own = settings(server, tmp_path / "c.jsonl", api_key_env="JUDGE_KEY", retries=8)
        replies = complete(own, requests(), said.append)
    assert replies[0].text == "your key is ***"
    seen = [*said, repr(replies), repr(own), json.dumps(own.as_dict()), *capfd.readouterr()]
    seen += [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in seen if KEY in text]
    assert any("***" in text for text in seen)
    own = JudgeSettings(model="m", base_url="http://me:secret@host/v1?token=secret")
    assert own.as_dict()["base_url"] == "http://host/v1"


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"model": " "}, "--judge"),
        ({"temperature": float("nan")}, "--judge_temperature"),
        ({"max_tokens": 0}, "--judge_max_tokens"),
        ({"concurrency": 0}, "--concurrency"),
        ({"requests_per_minute": 0.0}, "--requests_per_minute"),
        ({"retries": -1}, "--retries"),
        ({"timeout": float("inf")}, "--judge_timeout"),
        ({"max_cost": -1.0}, "--max_cost"),
        ({"max_cost": 1.0}, "--max_cost: a limit needs prices"),
        ({"price_in": 1.0}, "--price_in, --price_out"),
        ({"base_url": "localhost:8000"}, "--judge_url localhost:8000"),
    ],
)
def test_settings_that_cannot_be_meant(change: dict[str, object], flag: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        JudgeSettings(**{"model": "m", **change})
