"""Several data sets as one: every row once, in an order that depends on the shares alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase as Tokenizer

from orpo.data.lengths import LengthPolicy
from orpo.data.prepare import Preparation
from orpo.data.sources import Mixture, Source
from orpo.data.split import Selection
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Row


def rows(name: str, count: int) -> list[Row]:
    return [Row({"text": f"{name}{i}"}, f"{name}:{i}", i) for i in range(count)]


sizes = st.lists(st.integers(0, 30), min_size=2, max_size=4)


@given(sizes, st.data())
def test_every_row_comes_once(counts: list[int], data: st.DataObject) -> None:
    shares = data.draw(
        st.none() | st.lists(st.floats(0.1, 9), min_size=len(counts), max_size=len(counts))
    )
    sources = [rows("abcd"[i], count) for i, count in enumerate(counts)]
    mixed = list(Mixture(sources, shares))
    assert [row.index for row in mixed] == list(range(sum(counts)))
    assert Counter(row.where for row in mixed) == Counter(r.where for s in sources for r in s)
    assert list(Mixture(sources, shares)) == mixed
    for i, source in enumerate(sources):
        assert [row.values for row in mixed if row.source == i] == [row.values for row in source]


@given(st.lists(st.floats(0.1, 9), min_size=2, max_size=4))
def test_the_shares_hold_at_every_moment(shares: list[float]) -> None:
    mixed = list(Mixture([rows("abcd"[i], 200) for i in range(len(shares))], shares))
    inside = [row for row in mixed if not row.left_out]
    assert all(row.left_out == "not_in_mix" for row in mixed[len(inside) :])
    taken = [0] * len(shares)
    for count, row in enumerate(inside, start=1):
        taken[row.source] += 1
        for i, share in enumerate(shares):
            assert abs(taken[i] - count * share / sum(shares)) <= len(shares)
    assert max(taken) == 200 or len(inside) == len(mixed)


def test_without_shares_they_follow_one_another() -> None:
    mixed = Mixture([rows("a", 2), rows("b", 1)])
    assert [row.where for row in mixed] == ["a:0", "a:1", "b:0"]
    assert not any(row.left_out for row in mixed)


def test_a_selection_and_the_rest() -> None:
    whole = rows("a", 5)
    assert [r.index for r in Selection(whole, frozenset({1, 3}))] == [1, 3]
    assert [r.index for r in Selection(whole, frozenset({1, 3}), kept=False)] == [0, 2, 4]


def test_each_data_set_keeps_its_format(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
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


@pytest.mark.parametrize("change", ["content", "share", "order"])
def test_a_fingerprint_changes_with_what_it_stands_for(change: str, tmp_path: Path) -> None:
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in paths:
        path.write_text('{"a": 1}\n')
    sources = [Source(str(path)) for path in paths]
    before = Mixture(sources, [1, 2]).fingerprint()
    assert before == Mixture(sources, [1, 2]).fingerprint()
    if change == "content":
        paths[1].write_text('{"a": 2}\n')
    after = {
        "content": (sources, [1, 2]),
        "share": (sources, [1, 3]),
        "order": (sources[::-1], [1, 2]),
    }
    assert Mixture(*after[change]).fingerprint() != before


def test_what_is_not_known_has_no_fingerprint() -> None:
    assert Source("owner/name").fingerprint() is None
    assert Mixture([rows("a", 1)]).fingerprint() is None
    assert Selection(rows("a", 1), frozenset()).fingerprint() is None


@pytest.mark.parametrize("order", [1, -1])
def test_messages_are_seen_wherever_they_come(
    order: int, tmp_path: Path, plain_tokenizer: Tokenizer
) -> None:
    """A tokenizer without template gets one if any data set holds messages."""
    (tmp_path / "a.jsonl").write_text('{"prompt": "p", "chosen": "c", "rejected": "r"}\n' * 400)
    said = '[{"role": "assistant", "content": "%s"}]'
    row = f'{{"prompt": "q", "chosen": {said % "c"}, "rejected": {said % "r"}}}\n'
    (tmp_path / "b.jsonl").write_text(row * 3)
    sources = [Source(str(tmp_path / name)) for name in ("a.jsonl", "b.jsonl")[::order]]
    prepare = Preparation(PairTokenizer(plain_tokenizer, LengthPolicy(64)))
    _, ledger = prepare(Mixture(sources), "d")
    assert set(ledger.rendering.split(" + ")) == {"plain text", "chat template"}


def test_data_sets_in_memory_are_mixed_too() -> None:
    sets = [datasets.Dataset.from_list([{"a": f"{name}{i}"} for i in range(3)]) for name in "xy"]
    mixed = list(Mixture(sets, [1, 1]))
    assert [row.values["a"] for row in mixed] == ["x0", "y0", "x1", "y1", "x2", "y2"]
    assert mixed[3].where == "data set 1 row 1"
