"""A judge in a comparison: every run's answers beside the base model's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orpo.errors import ConfigError
from orpo.evaluate.judge import JudgeSettings
from orpo.experiments.compare import Arm, ArmResult, Group, Outcome
from orpo.jobs.compare.judging import JUDGMENTS, judge_arms
from tests.evaluate.judge.server import ScriptedServer, fair

WORDS = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]


def worth(request: str, answer: str) -> float:
    """9 for an answer that ends in the word that was asked for."""
    return 9.0 if answer.split()[-1:] == request.split()[-1:] else 2.0


def answered(right: int) -> tuple[Outcome, ...]:
    """Answers of which the first so many are right."""
    said = [word if n < right else f"not {n}" for n, word in enumerate(WORDS)]
    return tuple(
        Outcome(row, f"Please repeat the word {WORDS[row]}", -1.0, -2.0, f"I say {answer}")
        for row, answer in enumerate(said)
    )


def test_preferences_are_for_the_method_and_land_on_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    arms = [
        ArmResult(Arm(name, "steps", 1, ()), (), answered(right))
        for name, right in (("orpo", 12), ("sft", 3))
    ]
    with ScriptedServer(fair(worth)) as server:
        settings = JudgeSettings(
            model="scripted", base_url=server.url, cache=tmp_path / "judge-cache.jsonl"
        )
        found = judge_arms(settings, answered(6), arms, tmp_path, lambda line: None)
        asked = len(server.asked)
        again = judge_arms(settings, answered(6), arms, tmp_path, lambda line: None)
        assert len(server.asked) == asked  # every reply was kept
    orpo, sft = (result.judged for result in found.arms)
    assert orpo == {row: 0.5 if row < 6 else 1.0 for row in range(12)}
    assert sft == {row: 0.0 if 3 <= row < 6 else 0.5 for row in range(12)}
    assert [result.judged for result in again.arms] == [orpo, sft]
    values = Group("orpo", "steps", (found.arms[0],)).judged()
    assert values is not None
    assert values[0] == [[0.5] * 6 + [1.0] * 6]
    lines = (tmp_path / JUDGMENTS).read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["id"] for line in lines} == {
        f"{name}-steps-seed1/{row}" for name in ("orpo", "sft") for row in range(12)
    }
    assert found.about["remarks"]


def test_without_answers_there_is_nothing_to_judge(tmp_path: Path) -> None:
    silent = tuple(Outcome(row, f"prompt {row}", -1.0, -2.0) for row in range(3))
    arms = [ArmResult(Arm("orpo", "steps", 1, ()), (), silent)]
    with pytest.raises(ConfigError, match="--samples"):
        judge_arms(JudgeSettings(model="m"), silent, arms, tmp_path, lambda line: None)
