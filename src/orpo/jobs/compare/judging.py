"""A judge's word on the answers of every run, each beside the base model's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orpo.errors import ConfigError
from orpo.evaluate.judge import Comparison, JudgeSettings, compare_pairs
from orpo.experiments.compare import BASE, Arm, ArmResult, Outcome
from orpo.runs import write_jsonl

__all__ = ["JUDGMENTS", "Judged", "judge_arms"]

JUDGMENTS = "judgments.jsonl"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Judged:
    """The results, with the judge's preferences if there was a judge.

    Attributes:
        base: The base model's.
        arms: Of every run.
        about: The judge's settings, canaries, bias and cost; empty without a judge.
    """

    base: ArmResult
    arms: list[ArmResult]
    about: dict[str, Any] = field(default_factory=dict)


def judge_arms(
    judge: JudgeSettings | None,
    base: Sequence[Outcome],
    arms: Sequence[ArmResult],
    folder: Path,
    say: Say,
) -> Judged:
    """Have every run's answers compared with the base model's, in both orders.

    Raises:
        ConfigError: The judge cannot be asked, or there is no answer to show it.
    """
    own = ArmResult(Arm(BASE, "", 0, ()), (), tuple(base))
    if judge is None:
        return Judged(own, list(arms))
    before = {one.row: one for one in base if one.answer is not None}
    items = [
        Comparison(
            f"{result.arm.name}/{one.row}",
            one.prompt,
            str(before[one.row].answer),
            one.answer,
            group=str(one.row),
        )
        for result in arms
        for one in result.outcomes
        if one.answer is not None and one.row in before
    ]
    if not items:
        raise ConfigError(
            "there is no answer to judge", where="--judge", fix="Give --samples above 0."
        )
    found = compare_pairs(judge, items, say)
    write_jsonl(folder / JUDGMENTS, [item.as_dict() for item in found.items])
    preferences = {item.id: item.preference for item in found.items}
    judged = [
        replace(
            result,
            judged={
                one.row: preferences[name]
                for one in result.outcomes
                if (name := f"{result.arm.name}/{one.row}") in preferences
            },
        )
        for result in arms
    ]
    return Judged(own, judged, found.as_dict())
