"""What limits would do and what an epoch costs, against the code that does it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orpo.audit.lengths import TokenCounts
from orpo.data.lengths import MIN_ANSWER_ROOM, LengthPolicy
from orpo.data.pack import PairCollator
from orpo.data.types import Dropped, TokenizedPair
from orpo.engine.microbatch import positions_of
from orpo.engine.shared import SharedEngine

LONG = 3 * MIN_ANSWER_ROOM


@st.composite
def pairs(draw: st.DrawFn) -> TokenizedPair:
    shared = draw(st.lists(st.integers(0, 2), max_size=LONG))
    prompt = draw(st.lists(st.just(7), min_size=1, max_size=2 * LONG))
    chosen = shared + draw(st.lists(st.integers(0, 2), min_size=1, max_size=LONG))
    rejected = shared + draw(st.lists(st.integers(0, 2), max_size=LONG))
    if chosen == rejected:
        rejected = [*rejected, 5]
    return TokenizedPair(prompt, chosen, rejected, row=0)


POLICIES = st.builds(
    LengthPolicy,
    st.one_of(st.none(), st.integers(1, 5 * LONG)),
    st.one_of(st.none(), st.integers(1, 2 * LONG)),
    st.sampled_from(["truncate_answer", "keep_end", "keep_start", "drop"]),
)


@given(st.lists(pairs(), min_size=1, max_size=6), POLICIES)
def test_limits_do_what_training_does(made: list[TokenizedPair], policy: LengthPolicy) -> None:
    counts = TokenCounts()
    for pair in made:
        counts.add(pair)
    outcome = counts.outcome(policy)
    for i, pair in enumerate(made):
        fitted = policy.fit(pair, "row")
        assert bool(outcome.dropped[i]) == isinstance(fitted, Dropped)
        if isinstance(fitted, Dropped):
            continue
        assert bool(outcome.cut[i]) == bool(fitted.cut)
        lengths = tuple(map(len, (fitted.prompt_ids, fitted.chosen_ids, fitted.rejected_ids)))
        assert (outcome.prompt[i], outcome.chosen[i], outcome.rejected[i]) == lengths


@pytest.mark.parametrize("shared", [15, 16, 17, 18, 30])
def test_answers_that_are_the_same_as_far_as_they_are_kept(shared: int) -> None:
    pair = TokenizedPair([1] * 10, [2] * shared + [3] * 20, [2] * shared + [4] * 20, row=0)
    counts, policy = TokenCounts(), LengthPolicy(10 + 17)
    counts.add(pair)
    dropped = isinstance(policy.fit(pair, "row"), Dropped)
    assert dropped == (shared >= 17)
    assert counts.outcome(policy).dropped.tolist() == [dropped]


def test_error_counts_what_would_stop_the_run() -> None:
    counts = TokenCounts()
    counts.add(TokenizedPair([1] * 5, [2] * 5, [3] * 4, row=0))
    counts.add(TokenizedPair([1] * 50, [2] * 5, [3] * 4, row=1))
    assert counts.outcome(LengthPolicy(20, truncation="error")).dropped.tolist() == [False, True]


@given(st.lists(pairs(), min_size=1, max_size=4))
def test_positions_are_those_of_the_engine(made: list[TokenizedPair]) -> None:
    counts = TokenCounts()
    for pair in made:
        counts.add(pair)
    budget = counts.budget(LengthPolicy(None))
    batch = PairCollator(0)([vars(pair) for pair in made])
    positions = positions_of(batch, SharedEngine())
    assert budget["positions_per_epoch"] == sum(positions)
    assert budget["longest_positions"] == max(positions)
    masks = [batch[f"{side}_attention_mask"] for side in ("chosen", "rejected")]
    if all(pair.rejected_ids for pair in made):
        assert budget["tokens_per_epoch"] == int(sum(m.sum() for m in masks))
        assert budget["padded_positions_per_epoch"] == 2 * masks[0].numel()
    assert budget["nll_tokens"] == int(masks[0].sum()) - len(made)
    assert torch.is_tensor(masks[0])


def test_limits_rise_and_end_where_everything_fits() -> None:
    counts = TokenCounts()
    for length in (10, 200, 700):
        counts.add(TokenizedPair([1] * 10, [2] * length, [3] * 9, row=0))
    tried = counts.limits(LengthPolicy(300))
    assert [t.max_length for t in tried] == [128, 256, 300, 512, 768]
    assert [t.cut for t in tried] == [2, 1, 1, 1, 0]
    assert all(t.dropped == 0 for t in tried)


@pytest.mark.parametrize(
    ("length", "verdict", "cut", "dropped"),
    [(1000, "ok", 0, 0), (150, "look", 10, 0), (60, "stop", 100, 0), (50, "stop", 0, 100)],
)
def test_verdicts(length: int, verdict: str, cut: int, dropped: int) -> None:
    counts = TokenCounts()
    for n in range(100):
        counts.add(TokenizedPair([1] * 40, [2] * (30 + 100 * (n < 10)), [3] * 30, row=n))
    finding = counts.finding(LengthPolicy(length))
    assert (finding.verdict, finding.figures["cut"]) == (verdict, cut)
    assert finding.figures["dropped"] == dropped
    assert (finding.count, finding.of) == (cut + dropped, 100)
