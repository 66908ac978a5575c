"""Several data sets as one, and one rule for holding out rows by prompt."""

from collections import Counter
from pathlib import Path

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.build import assistant, rows_of, user
from transformers import PreTrainedTokenizerBase as Tokenizer

from orpo.data.lengths import LengthPolicy
from orpo.data.prepare import Preparation
from orpo.data.sources import Mixture, Source
from orpo.data.split import Sample, Selection, hold_out
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Row
from orpo.errors import ConfigError, DataError


def named(name: str, count: int) -> list[Row]:
    return [Row({"text": f"{name}{i}"}, f"{name}:{i}", i) for i in range(count)]


class TestMixture:
    """Every row once, in an order that depends on the shares alone."""

    @given(st.lists(st.integers(0, 30), min_size=2, max_size=4), st.data())
    def test_every_row_comes_once(self, counts: list[int], data: st.DataObject) -> None:
        shares = data.draw(
            st.none() | st.lists(st.floats(0.1, 9), min_size=len(counts), max_size=len(counts))
        )
        sources = [named("abcd"[i], count) for i, count in enumerate(counts)]
        mixed = list(Mixture(sources, shares))
        assert [row.index for row in mixed] == list(range(sum(counts)))
        assert list(Mixture(sources, shares)) == mixed
        for i, source in enumerate(sources):
            assert [row.where for row in mixed if row.source == i] == [r.where for r in source]
        if shares is None:
            assert [row.where for row in mixed] == [r.where for source in sources for r in source]
            assert not any(row.left_out for row in mixed)

    @given(st.lists(st.floats(0.1, 9), min_size=2, max_size=4))
    def test_the_shares_hold_at_every_moment(self, shares: list[float]) -> None:
        mixed = list(Mixture([named("abcd"[i], 200) for i in range(len(shares))], shares))
        inside = [row for row in mixed if not row.left_out]
        assert all(row.left_out == "not_in_mix" for row in mixed[len(inside) :])
        taken = [0] * len(shares)
        for count, row in enumerate(inside, start=1):
            taken[row.source] += 1
            for i, share in enumerate(shares):
                assert abs(taken[i] - count * share / sum(shares)) <= len(shares)
        assert max(taken) == 200 or len(inside) == len(mixed)

    def test_each_data_set_keeps_its_format(
        self, tmp_path: Path, small_tokenizer: Tokenizer
    ) -> None:
        (tmp_path / "a.jsonl").write_text('{"prompt": "p", "chosen": "c", "rejected": "r"}\n' * 4)
        (tmp_path / "b.jsonl").write_text(
            '{"messages": [{"role": "user", "content": "q"}, '
            '{"role": "assistant", "content": "a"}]}\n' * 2
        )
        mixed = Mixture([Source(str(tmp_path / n)) for n in ("a.jsonl", "b.jsonl")], [1, 1])
        prepared, ledger = Preparation(PairTokenizer(small_tokenizer, LengthPolicy(64)))(mixed, "d")
        assert ledger.format == "prompt + messages"
        assert (ledger.rows_in, ledger.kept, ledger.nll_only) == (6, 5, 2)
        assert ledger.dropped == {"not_in_mix": 1}
        assert [len(ids) > 0 for ids in prepared["rejected_ids"]] == [True, False] * 2 + [True]

    def test_data_sets_in_memory_are_mixed_too(self) -> None:
        sets = [datasets.Dataset.from_list([{"a": f"{n}{i}"} for i in range(3)]) for n in "xy"]
        mixed = list(Mixture(sets, [1, 1]))
        assert [row.values["a"] for row in mixed] == ["x0", "y0", "x1", "y1", "x2", "y2"]
        assert mixed[3].where == "data set 1 row 1"

    def test_a_fingerprint_changes_with_what_it_stands_for(self, tmp_path: Path) -> None:
        paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
        for path in paths:
            path.write_text('{"a": 1}\n')
        sources = [Source(str(path)) for path in paths]

        def fingerprint(shares: list[int], order: int = 1) -> str:
            return str(Mixture(sources[::order], shares).fingerprint())

        before = fingerprint([1, 2])
        assert before == fingerprint([1, 2])
        paths[1].write_text('{"a": 2}\n')
        assert len({before, fingerprint([1, 2]), fingerprint([1, 3]), fingerprint([1, 2], -1)}) == 4
        assert Source("owner/name").fingerprint() is None
        assert Mixture([named("a", 1)]).fingerprint() is None
        assert Selection(named("a", 1), frozenset()).fingerprint() is None


def asking(prompts: list[int]) -> list[Row]:
    return rows_of(
        [{"prompt": f"p{p}", "chosen": f"a{i}", "rejected": "b"} for i, p in enumerate(prompts)]
    )


@settings(max_examples=15)
@given(st.lists(st.integers(0, 60), min_size=80, max_size=120), st.integers(0, 5))
def test_every_row_on_one_side_and_no_prompt_on_both(prompts: list[int], seed: int) -> None:
    rows = asking(prompts)
    try:
        train, held = map(list, hold_out(rows, 0.3, seed, "d"))
    except ConfigError:
        return  # very few different prompts
    assert sorted(row.index for row in train + held) == list(range(len(rows)))
    assert not {r.values["prompt"] for r in train} & {r.values["prompt"] for r in held}
    assert [list(side) for side in hold_out(rows, 0.3, seed, "d")] == [train, held]


def test_a_prompt_keeps_its_side_when_rows_are_added() -> None:
    _, before = hold_out(asking(list(range(100))), 0.2, 1, "d")
    _, after = hold_out(asking(list(range(200))), 0.2, 1, "d")
    assert {r.values["prompt"] for r in before} <= {r.values["prompt"] for r in after}
    assert 20 <= len(list(after)) <= 60


def test_an_empty_side_is_an_error_and_malformed_rows_stay_with_training() -> None:
    with pytest.raises(ConfigError, match="held_out"):
        hold_out(asking([1]), 0.5, 0, "d")
    misspelt = [
        Row({"prompt": str(i), "choosen": "c", "rejected": "r"}, "f:1", i) for i in range(9)
    ]
    with pytest.raises(DataError, match="Add --columns chosen=choosen"):
        hold_out(misspelt, 0.5, 0, "d")
    rows = [*asking(list(range(50))), Row({"prompt": None, "chosen": 3}, "file:50", 50)]
    train, held = hold_out(rows, 0.9, 0, "d")
    assert rows[-1] in train
    assert rows[-1] not in held


def test_a_prompt_is_the_same_however_it_is_written() -> None:
    """Text or messages, upper or lower case: one question is on one side."""
    plain = [{"prompt": f"What is {i}?", "chosen": f"a{i}", "rejected": "b"} for i in range(60)]
    loud = [{**row, "prompt": row["prompt"].upper() + " \n"} for row in plain]
    spoken = [
        {"messages": [user(row["prompt"]), assistant(row["chosen"])], "rejected_response": "b"}
        for row in plain
    ]
    sides: dict[str, set[bool]] = {}
    mixed = Mixture([plain, loud, spoken])
    for held, side in enumerate(hold_out(mixed, 0.4, 0, "d")):
        for row in side:
            said = row.values.get("prompt") or row.values["messages"][0]["content"]
            sides.setdefault(said.lower().strip(), set()).add(bool(held))
    assert len(sides) == 60
    assert all(len(side) == 1 for side in sides.values())


def test_the_format_that_was_named_is_used() -> None:
    row = {"prompt": "p", "chosen": "c", "rejected": "r"}
    rows = rows_of([{**row, "instruction": f"i{n}"} for n in range(50)])
    _, held = hold_out(rows, 0.3, 0, "d", data_format="alpaca")
    assert 3 < len(list(held)) < 30


def test_the_side_of_a_prompt_is_what_it_was() -> None:
    """A run of 0.1.0 that goes on, and an evaluation of it, draw its own held-out rows again."""
    texts = [{"prompt": f"Question {i}?", "chosen": "a", "rejected": "b"} for i in range(60)]
    tokens = [{"prompt_ids": [1, i], "chosen_ids": [2], "rejected_ids": [3]} for i in range(60)]
    for rows, expected in (
        (texts, [0, 2, 3, 6, 18, 21, 23, 28, 49]),
        (tokens, [16, 17, 18, 19, 45, 56, 59]),
    ):
        train, held = hold_out(rows_of(rows), 0.1, 42, "d")
        assert [row.index for row in held] == expected
        assert [row.index for row in train] == [i for i in range(60) if i not in expected]


def test_every_row_has_the_same_chance_to_be_drawn() -> None:
    drawn: Counter[int] = Counter()
    for seed in range(400):
        sample = Sample(5, seed)
        passing = sample.passing(Row({}, "", i) for i in range(20))
        assert [row.index for row in passing] == [*range(20)]
        assert len({row.index for row in sample.rows}) == 5
        drawn.update(row.index for row in sample.rows)
    assert set(drawn) == set(range(20))
    assert max(drawn.values()) < 2 * min(drawn.values())  # 100 each but for chance
    few = Sample(5, 0)
    assert len(list(few.passing(Row({}, "", i) for i in range(3)))) == 3
    assert [row.index for row in few.rows] == [0, 1, 2]
