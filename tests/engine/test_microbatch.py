"""Micro-batches: every pair in exactly one, within the limit, evenly filled."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpo.engine.layout import pair_lengths
from orpo.engine.microbatch import cut, even_bins, pack_bins, positions_of
from orpo.engine.padded import PaddedEngine
from orpo.engine.shared import SharedEngine
from orpo.engine.types import Engine
from tests.engine.families import collate, pair_lists
from tests.train.oracle_fp64 import Pair

ENGINES: dict[str, Engine] = {"shared": SharedEngine(), "padded": PaddedEngine()}

sizes_of = st.lists(st.integers(1, 60), min_size=1, max_size=14)
limits = st.integers(1, 150)


def room(sizes: list[int], bin_: list[int], engine: Engine) -> int:
    """Positions that the pairs of a bin take up together."""
    own = [sizes[i] for i in bin_]
    return len(own) * max(own) if engine.pads else sum(own)


def fault(bins: list[list[int]], sizes: list[int], limit: int, engine: Engine) -> str:
    """What is wrong with a distribution; empty if nothing."""
    if sorted(i for bin_ in bins for i in bin_) != list(range(len(sizes))):
        return "not every pair is in one bin"
    if any(room(sizes, bin_, engine) > limit and len(bin_) > 1 for bin_ in bins):
        return "more positions than the limit"
    return ""


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@given(sizes=sizes_of, limit=limits)
def test_every_pair_is_in_one_bin_within_the_limit(
    engine: Engine, sizes: list[int], limit: int
) -> None:
    assert fault(pack_bins(sizes, limit, engine), sizes, limit, engine) == ""


@given(sizes=sizes_of, limit=limits)
def test_bins_of_the_shared_engine_are_balanced(sizes: list[int], limit: int) -> None:
    """The fullest bin exceeds the emptiest by no more than its own smallest pair."""
    bins = pack_bins(sizes, limit, SharedEngine())
    filled = [sum(sizes[i] for i in bin_) for bin_ in bins]
    for bin_, total in zip(bins, filled, strict=True):
        assert total - min(sizes[i] for i in bin_) <= min(filled)
    assert len(bins) >= min(math.ceil(sum(sizes) / limit), len(sizes))
    # One bin fewer, filled the same way, would be over the limit.
    if len(bins) > 1 and max(filled) <= limit:
        fewer = [0] * (len(bins) - 1)
        for size in sorted(sizes, reverse=True):
            fewer[fewer.index(min(fewer))] += size
        assert max(fewer) > limit


@given(sizes=sizes_of, limit=limits)
def test_bins_of_the_padded_engine_hold_neighbours_in_length(sizes: list[int], limit: int) -> None:
    bins = pack_bins(sizes, limit, PaddedEngine())
    for longer, shorter in pairwise(bins):
        assert min(sizes[i] for i in longer) >= max(sizes[i] for i in shorter)
        # The next pair would not have fitted.
        most = max(sizes[i] for i in longer)
        assert (len(longer) + 1) * most > limit


@given(sizes=sizes_of, data=st.data(), neighbours=st.booleans())
def test_a_given_number_of_bins(sizes: list[int], data: st.DataObject, neighbours: bool) -> None:
    count = data.draw(st.integers(1, len(sizes)))
    bins = even_bins(sizes, count, neighbours=neighbours)
    assert len(bins) == count
    assert all(bins)
    assert sorted(i for bin_ in bins for i in bin_) == list(range(len(sizes)))
    if neighbours:
        assert {len(bin_) for bin_ in bins} <= {len(sizes) // count, -(-len(sizes) // count)}
        for longer, shorter in pairwise(bins):
            assert min(sizes[i] for i in longer) >= max(sizes[i] for i in shorter)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@given(pairs=pair_lists(), limit=st.integers(1, 120))
def test_micro_batches_hold_every_pair_as_wide_as_it_needs(
    engine: Engine, pairs: list[Pair], limit: int
) -> None:
    whole = collate(pairs)
    parts = cut([whole], engine, limit)
    rows = [row for part in parts for row in part["row"].tolist()]
    assert sorted(rows) == list(range(len(pairs)))
    for part in parts:
        inside = [pairs[row] for row in part["row"].tolist()]
        expected = collate(inside)
        for name, value in expected.items():
            if name != "row":
                assert value.equal(part[name]), name
        sizes = positions_of(part, engine)
        assert len(inside) == 1 or room(sizes, list(range(len(sizes))), engine) <= limit


@given(pairs=pair_lists())
def test_positions_are_those_of_the_model(pairs: list[Pair]) -> None:
    batch = collate(pairs)
    shared, padded = [], []
    for prompt, chosen, rejected in pairs:
        good, bad = prompt + chosen, prompt + rejected
        same = 0
        while same < min(len(good), len(bad)) and good[same] == bad[same]:
            same += 1
        shared.append(len(good) + len(bad) - same)
        padded.append(2 * max(len(good), len(bad)))
    assert positions_of(batch, SharedEngine()) == shared
    assert positions_of(batch, PaddedEngine()) == padded
    assert pair_lengths(batch).sum(1).tolist() == shared


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@given(pairs=pair_lists())
def test_without_a_limit_or_within_it_the_batch_stays_whole(
    engine: Engine, pairs: list[Pair]
) -> None:
    batch = collate(pairs)
    sizes = positions_of(batch, engine)
    enough = room(sizes, list(range(len(sizes))), engine)
    for limit in (None, enough, enough + 1):
        (whole,) = cut([batch], engine, limit)
        assert whole.keys() == batch.keys()
        assert all(whole[name].equal(batch[name]) for name in batch)


def test_the_pairs_of_several_batches_are_dealt_out_anew() -> None:
    short, long = ([5], [6], [7]), ([5], [6] * 20, [7] * 20)
    batches = [collate([short, long]), collate([long, short])]
    for i, batch in enumerate(batches):
        batch["row"] += 2 * i
    (whole,) = cut(batches, SharedEngine(), None)
    assert whole["row"].tolist() == [0, 1, 2, 3]
    parts = cut(batches, SharedEngine(), 44)
    assert [part["row"].tolist() for part in parts] == [[0, 1], [2, 3]]
    parts = cut(batches, PaddedEngine(), 84)
    assert [part["row"].tolist() for part in parts] == [[1, 2], [0, 3]]
    assert [part["chosen_input_ids"].shape for part in parts] == [(2, 21), (2, 2)]


def test_the_limit_of_padded_rows_counts_both_sides_with_their_padding() -> None:
    pairs: list[Pair] = [([1], [2, 2], [3])] * 4  # 2 x 3 positions a pair
    for limit, sizes in ((1, [1] * 4), (11, [1] * 4), (12, [2, 2]), (18, [3, 1]), (24, [4])):
        parts = cut([collate(pairs)], PaddedEngine(), limit)
        assert [len(part["row"]) for part in parts] == sizes


def test_the_checks_reject_planted_mistakes() -> None:
    sizes, engine = [5, 6, 7], SharedEngine()
    assert fault([[0, 1], [2]], sizes, 11, engine) == ""
    assert fault([[0, 1]], sizes, 11, engine) == "not every pair is in one bin"
    assert fault([[0, 1], [1, 2]], sizes, 20, engine) == "not every pair is in one bin"
    assert fault([[0, 1], [2]], sizes, 10, engine) == "more positions than the limit"
    assert fault([[0, 1], [2]], sizes, 11, PaddedEngine()) == "more positions than the limit"
