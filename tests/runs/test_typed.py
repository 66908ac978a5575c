"""What is read from a file becomes a dataclass, or one line says what is wrong with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from orpo.errors import DataError
from orpo.runs.typed import typed


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class Finding:
    name: str
    level: Literal["note", "warning"] = "note"
    rows: tuple[int, ...] = ()
    share: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class Result:
    findings: list[Finding]
    ends: tuple[int, str] = (0, "")
    by_name: dict[str, Interval] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    texts: Sequence[str] = ()
    either: int | str = 0


def test_a_nested_result_is_read_back_whole() -> None:
    made = typed(
        Result,
        {
            "findings": [
                {"name": "empty", "rows": [1, 2], "interval": {"low": 1, "high": 2.5}},
                {"name": "long", "level": "warning", "share": None, "unknown": 1},
            ],
            "ends": [3, "b"],
            "by_name": {"x": {"low": 0.0, "high": 1.0}},
            "more": {"anything": [1, None]},
            "texts": ["a"],
            "either": "text",
        },
        where="f",
    )
    assert made == Result(
        [Finding("empty", "note", (1, 2), None, Interval(1, 2.5)), Finding("long", "warning")],
        (3, "b"),
        {"x": Interval(0.0, 1.0)},
        {"anything": [1, None]},
        ["a"],
        "text",
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "f: is a list, expected a mapping"),
        ({}, "f: lacks 'findings'"),
        ({"findings": [{}]}, "f: lacks 'findings[0].name'"),
        ({"findings": [{"name": 1}]}, "f: 'findings[0].name' is a whole number, expected a text"),
        ({"findings": [{"name": "a", "level": "bad"}]}, "is 'bad', expected one of 'note', 'warn"),
        ({"findings": [{"name": "a", "share": True}]}, "is true or false, expected a number"),
        ({"findings": [{"name": "a", "rows": [2**70]}]}, "'findings[0].rows[0]' is a whole number"),
        ({"findings": [], "ends": [1]}, "f: 'ends' has 1 values, expected 2"),
        ({"findings": [], "either": 1.5}, "is a number, expected a whole number or a text"),
        ({"findings": [], "by_name": {"x": 3}}, "'by_name.x' is a whole number, expected a mappi"),
    ],
)
def test_what_is_wrong_is_one_line(values: Any, said: str) -> None:
    with pytest.raises(DataError) as caught:
        typed(Result, values, where="f")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
