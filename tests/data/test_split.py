"""One rule for holding out rows by prompt."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo.data.sources import Mixture
from orpo.data.split import Sample, hold_out
from orpo.data.types import Row
from orpo.errors import ConfigError


def rows_of(prompts: list[int]) -> list[Row]:
    return [
        Row({"prompt": f"p{p}", "chosen": f"a{i}", "rejected": "b"}, f"file:{i}", i)
        for i, p in enumerate(prompts)
    ]


@settings(max_examples=15)
@given(st.lists(st.integers(0, 60), min_size=80, max_size=120), st.integers(0, 5))
def test_every_row_on_one_side_and_no_prompt_on_both(prompts: list[int], seed: int) -> None:
    rows = rows_of(prompts)
    try:
        train, held = map(list, hold_out(rows, 0.3, seed, "d"))
    except ConfigError:
        return  # very few different prompts
    assert sorted(row.index for row in train + held) == list(range(len(rows)))
    assert not {r.values["prompt"] for r in train} & {r.values["prompt"] for r in held}
    assert [list(side) for side in hold_out(rows, 0.3, seed, "d")] == [train, held]


def test_a_prompt_keeps_its_side_when_rows_are_added() -> None:
    _, before = hold_out(rows_of(list(range(100))), 0.2, 1, "d")
    _, after = hold_out(rows_of(list(range(200))), 0.2, 1, "d")
    assert {r.values["prompt"] for r in before} <= {r.values["prompt"] for r in after}
    assert 20 <= len(list(after)) <= 60


def test_an_empty_side_is_an_error() -> None:
    with pytest.raises(ConfigError, match="held_out"):
        hold_out(rows_of([1]), 0.5, 0, "d")


def test_malformed_rows_stay_with_training() -> None:
    rows = [*rows_of(list(range(50))), Row({"prompt": None, "chosen": 3}, "file:50", 50)]
    train, held = hold_out(rows, 0.9, 0, "d")
    assert rows[-1] in train
    assert rows[-1] not in held


def test_a_prompt_is_the_same_however_it_is_written() -> None:
    """Text or messages, upper or lower case: one question is on one side."""
    plain = [{"prompt": f"What is {i}?", "chosen": f"a{i}", "rejected": "b"} for i in range(60)]
    loud = [{**row, "prompt": row["prompt"].upper() + " \n"} for row in plain]
    spoken = [
        {"messages": [{"role": "user", "content": row["prompt"]},
                      {"role": "assistant", "content": row["chosen"]}], "rejected_response": "b"}
        for row in plain
    ]  # fmt: skip
    sides: dict[str, set[bool]] = {}
    mixed = Mixture([plain, loud, spoken])
    for held, side in enumerate(hold_out(mixed, 0.4, 0, "d")):
        for row in side:
            said = row.values.get("prompt") or row.values["messages"][0]["content"]
            sides.setdefault(said.lower().strip(), set()).add(bool(held))
    assert len(sides) == 60
    assert all(len(side) == 1 for side in sides.values())


def test_the_format_that_was_named_is_used() -> None:
    row = {"prompt": "p", "instruction": "i", "chosen": "c", "rejected": "r"}
    rows = [Row({**row, "instruction": f"i{n}"}, f"d:{n}", n) for n in range(50)]
    _, held = hold_out(rows, 0.3, 0, "d", data_format="alpaca")
    assert 3 < len(list(held)) < 30


def test_the_side_of_a_prompt_is_what_it_was() -> None:
    """A run of 0.1.0 that goes on, and an evaluation of it, draw its own held-out rows again."""
    rows = [
        Row({"prompt": f"Question {i}?", "chosen": "a", "rejected": "b"}, "d", i) for i in range(60)
    ]
    _, held = hold_out(rows, 0.1, 42, "d")
    assert [row.index for row in held] == [0, 2, 3, 6, 18, 21, 23, 28, 49]
    tokens = [
        Row({"prompt_ids": [1, i], "chosen_ids": [2], "rejected_ids": [3]}, "d", i)
        for i in range(60)
    ]
    _, held = hold_out(tokens, 0.1, 42, "d")
    assert [row.index for row in held] == [16, 17, 18, 19, 45, 56, 59]


def test_every_row_has_the_same_chance_to_be_drawn() -> None:
    drawn: Counter[int] = Counter()
    for seed in range(400):
        sample = Sample(5, seed)
        assert [row.index for row in sample.passing(Row({}, "", i) for i in range(20))] == [
            *range(20)
        ]
        assert len({row.index for row in sample.rows}) == 5
        drawn.update(row.index for row in sample.rows)
    assert set(drawn) == set(range(20))
    assert max(drawn.values()) < 2 * min(drawn.values())  # 100 each but for chance


def test_fewer_rows_than_are_drawn() -> None:
    sample = Sample(5, 0)
    assert len(list(sample.passing(Row({}, "", i) for i in range(3)))) == 3
    assert [row.index for row in sample.rows] == [0, 1, 2]
