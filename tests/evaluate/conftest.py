"""What tests of evaluations share: no long waits, and a command that is run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orpo.commands.main import main

Run = Callable[..., tuple[Any, str]]


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The official client waits for less than a millisecond before it asks again."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0005)


@pytest.fixture
def evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """(what `orpo evaluate ... --json` printed, what was said on one line), in a new folder."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-never-to-be-seen")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, code: int = 0) -> tuple[Any, str]:
        capfd.readouterr()
        assert main(["evaluate", *map(str, arguments), "--json"]) == code
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return json.loads(out) if out else None, " ".join(err.split())

    return run
