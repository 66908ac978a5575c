"""A judge's settings: what cannot be meant, and the key, which is nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orpo.errors import ConfigError
from orpo.evaluate.judge import JudgeSettings, complete
from tests.evaluate.judge.server import Asked, Fail, ScriptedServer
from tests.evaluate.judge.test_judge_client import KEY, requests, settings


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


def test_an_address_keeps_its_password_to_itself() -> None:
    own = JudgeSettings(model="m", base_url="http://me:secret@host/v1?token=secret")
    assert own.as_dict()["base_url"] == "http://host/v1"


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"model": " "}, "--judge"),
        ({"temperature": float("nan")}, "--judge_temperature"),
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
        JudgeSettings(**{"model": "m", **change})  # type: ignore[arg-type]
