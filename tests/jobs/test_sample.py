"""A few rows drawn while a data set passes."""

from __future__ import annotations

from collections import Counter

from orpo.data import Row
from orpo.jobs.sample import Sample


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
