"""Over-long pairs: what each policy keeps, cuts and drops, for every combination of lengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orpo.data.lengths import MIN_ANSWER_ROOM, TRUNCATIONS, LengthPolicy, TooLongError
from orpo.data.types import Dropped, TokenizedPair
from orpo.errors import DataError

BOS, END = 1, 2


class Case(NamedTuple):
    policy: LengthPolicy
    pair: TokenizedPair
    prefix: int


Fit = Callable[[Case], TokenizedPair | Dropped | None]


def make_pair(prompt: int, chosen: int, rejected: int) -> TokenizedPair:
    """A pair in which every token tells where it came from."""
    return TokenizedPair(
        [BOS, *range(1000, 999 + prompt)],
        [*range(2000, 1999 + chosen), END],
        [*range(3000, 2999 + rejected), END],
        row=5,
    )


lengths = st.integers(1, 70)
pairs = st.builds(make_pair, lengths, lengths, lengths)
limits = st.one_of(
    st.tuples(st.integers(1, 130), st.none()),
    st.tuples(st.none(), st.none() | st.integers(1, 90)),
    st.integers(2, 130).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1))),
)


def cases(*truncations: str) -> st.SearchStrategy[Case]:
    policies = st.builds(
        lambda limit, how: LengthPolicy(*limit, how), limits, st.sampled_from(truncations)
    )
    return st.builds(Case, policies, pairs, st.integers(0, 1))


def fit(case: Case) -> TokenizedPair | Dropped | None:
    """What becomes of a pair; None where the policy stops the run."""
    try:
        return case.policy.fit(case.pair, "pairs.jsonl:6", case.prefix)
    except TooLongError:
        return None


def fits(policy: LengthPolicy, pair: TokenizedPair) -> bool:
    prompt, longest = len(pair.prompt_ids), max(len(pair.chosen_ids), len(pair.rejected_ids))
    whole = policy.max_length is None or prompt + longest <= policy.max_length
    return whole and (policy.max_prompt_length is None or prompt <= policy.max_prompt_length)


def fault(case: Case, outcome: TokenizedPair | Dropped | None) -> str:
    """What is wrong with the outcome of a case; empty if nothing."""
    policy, pair, _ = case
    if fits(policy, pair):
        return "" if outcome == pair else "a pair that fits was touched"
    if policy.truncation == "error":
        return "" if outcome is None else "the run did not stop"
    if policy.truncation == "drop":
        ok = isinstance(outcome, Dropped) and outcome.reason == "too_long"
        return "" if ok else "the pair was not dropped"
    if outcome is None:
        return "the run stopped"
    if isinstance(outcome, Dropped):
        return fault_of_drop(case, outcome)
    return fault_of_prompt(case, outcome) or fault_of_answers(case, outcome)


def prompt_length(case: Case) -> int | None:
    """How much of the prompt the policy lets stand; None if it must not be cut at all."""
    policy, pair, _ = case
    prompt, longest = len(pair.prompt_ids), max(len(pair.chosen_ids), len(pair.rejected_ids))
    if policy.truncation == "truncate_answer":
        over = policy.max_prompt_length is not None and prompt > policy.max_prompt_length
        return None if over else prompt
    if policy.max_prompt_length is not None:
        return min(prompt, policy.max_prompt_length)
    assert policy.max_length is not None
    # Enough for the longer answer, if that leaves the prompt a half.
    return min(prompt, max(policy.max_length - longest, policy.max_length // 2))


def fault_of_drop(case: Case, outcome: Dropped) -> str:
    kept = prompt_length(case)
    if outcome.reason != "prompt_too_long" or outcome.where != "pairs.jsonl:6":
        return f"dropped as {outcome.reason}"
    if kept is None:
        return ""
    assert case.policy.max_length is not None
    longest = max(len(case.pair.chosen_ids), len(case.pair.rejected_ids))
    room = case.policy.max_length - kept
    return "" if room < min(longest, MIN_ANSWER_ROOM) else "dropped though there was room"


def fault_of_prompt(case: Case, outcome: TokenizedPair) -> str:
    whole, kept, length = case.pair.prompt_ids, outcome.prompt_ids, prompt_length(case)
    if length is None:
        return "kept with a prompt that is too long"
    if len(kept) != length:
        return f"{len(kept)} tokens of the prompt instead of {length}"
    if ("prompt" in outcome.cut) != (kept != whole):
        return "the cut of the prompt is not told"
    start = min(case.prefix, length) if case.policy.truncation == "keep_end" else length
    if kept != whole[:start] + whole[len(whole) - (length - start) :]:
        return "not the end of the prompt that should stand"
    return ""


def fault_of_answers(case: Case, outcome: TokenizedPair) -> str:
    room = 10**9
    if case.policy.max_length is not None:
        room = case.policy.max_length - len(outcome.prompt_ids)
    longest = max(len(case.pair.chosen_ids), len(case.pair.rejected_ids))
    if room < min(longest, MIN_ANSWER_ROOM):
        return "kept with too little room"
    for name in ("chosen", "rejected"):
        whole, kept = getattr(case.pair, f"{name}_ids"), getattr(outcome, f"{name}_ids")
        if kept != whole[:room]:
            return f"{name} is not cut on its own to the room"
        if (name in outcome.cut) != (len(kept) < len(whole)):
            return f"the cut of {name} is not told"
    return "" if outcome.row == case.pair.row else "the row got lost"


@settings(max_examples=400)
@given(cases(*TRUNCATIONS))
@example(Case(LengthPolicy(32), make_pair(16, 17, 3), 1))
@example(Case(LengthPolicy(32), make_pair(17, 17, 3), 1))
@example(Case(LengthPolicy(1, None, "keep_end"), make_pair(5, 5, 5), 1))
@example(Case(LengthPolicy(None, 1, "keep_end"), make_pair(5, 5, 5), 1))
def test_every_pair_is_treated_as_documented(case: Case) -> None:
    assert fault(case, fit(case)) == ""


@given(cases("truncate_answer", "keep_end", "keep_start"))
def test_kept_pairs_are_within_the_limits_and_a_cut_answer_has_no_end(case: Case) -> None:
    kept = fit(case)
    if isinstance(kept, TokenizedPair):
        assert fits(case.policy, kept)
        for name in ("chosen", "rejected"):
            ids = getattr(kept, f"{name}_ids")
            assert ids
            assert (ids[-1] == END) == (name not in kept.cut)


@given(pairs)
def test_without_limits_everything_fits(pair: TokenizedPair) -> None:
    for how in TRUNCATIONS:
        assert LengthPolicy(None, None, how).fit(pair, "here") is pair


def cut(case: Case, chosen: int, rejected: int) -> TokenizedPair:
    pair = case.pair
    return replace(
        pair, chosen_ids=pair.chosen_ids[:chosen], rejected_ids=pair.rejected_ids[:rejected]
    )


def to_fit_the_other(case: Case) -> TokenizedPair | Dropped | None:
    shorter = min(len(case.pair.chosen_ids), len(case.pair.rejected_ids))
    return cut(case, shorter, shorter)


def never_dropping(case: Case) -> TokenizedPair | Dropped | None:
    room = max((case.policy.max_length or 0) - len(case.pair.prompt_ids), 0)
    return cut(case, room, room)


def ending_all_the_same(case: Case) -> TokenizedPair | Dropped | None:
    kept = fit(case)
    if not isinstance(kept, TokenizedPair):
        return kept
    return replace(
        kept, chosen_ids=[*kept.chosen_ids[:-1], END], rejected_ids=[*kept.rejected_ids[:-1], END]
    )


def forgetting_bos(case: Case) -> TokenizedPair | Dropped | None:
    return fit(case._replace(prefix=0))


def silently(case: Case) -> TokenizedPair | Dropped | None:
    kept = fit(case)
    return replace(kept, cut=()) if isinstance(kept, TokenizedPair) else kept


def dropping_all(case: Case) -> TokenizedPair | Dropped | None:
    return Dropped("too_long", "pairs.jsonl:6")


PLANTED = [
    Case(LengthPolicy(64), make_pair(30, 50, 10), 1),
    Case(LengthPolicy(64), make_pair(60, 50, 10), 1),
    Case(LengthPolicy(64, None, "keep_end"), make_pair(60, 20, 10), 1),
    Case(LengthPolicy(64), make_pair(5, 6, 7), 1),
]


@pytest.mark.parametrize(
    "wrong",
    [to_fit_the_other, never_dropping, ending_all_the_same, forgetting_bos, silently, dropping_all],
)
def test_the_check_rejects_planted_mistakes(wrong: Fit) -> None:
    assert not any(fault(case, fit(case)) for case in PLANTED)
    assert any(fault(case, wrong(case)) for case in PLANTED)


def test_sixteen_tokens_are_the_least_room() -> None:
    assert MIN_ANSWER_ROOM == 16
    kept = LengthPolicy(32).fit(make_pair(16, 40, 3), "here")
    assert isinstance(kept, TokenizedPair)
    assert (len(kept.chosen_ids), len(kept.rejected_ids), kept.cut) == (16, 3, ("chosen",))
    dropped = LengthPolicy(32).fit(make_pair(17, 40, 3), "here")
    assert isinstance(dropped, Dropped)
    assert dropped.detail == "prompt 17, chosen 40, rejected 3 tokens"
    # Little room is no reason to drop a pair that fits.
    assert LengthPolicy(32).fit(make_pair(30, 2, 1), "here") == make_pair(30, 2, 1)


def test_answers_that_differ_only_behind_the_cut_are_dropped() -> None:
    pair = TokenizedPair([BOS], [*range(5, 60), 70, END], [*range(5, 60), 80, END], row=0)
    dropped = LengthPolicy(40).fit(pair, "pairs.jsonl:1")
    assert isinstance(dropped, Dropped)
    assert dropped.reason == "identical_after_truncation"
    assert LengthPolicy(57).fit(pair, "pairs.jsonl:1") == replace(
        pair,
        chosen_ids=pair.chosen_ids[:56],
        rejected_ids=pair.rejected_ids[:56],
        cut=("chosen", "rejected"),
    )


def test_error_names_row_lengths_and_limits() -> None:
    policy = LengthPolicy(32, 8, "error")
    with pytest.raises(TooLongError) as caught:
        policy.fit(make_pair(9, 30, 3), "pairs.jsonl:7")
    message = str(caught.value)
    assert message.startswith(
        "pairs.jsonl:7: the pair is too long (prompt 9, chosen 30, rejected 3"
    )
    assert "max_length=32, max_prompt_length=8" in message
    assert isinstance(caught.value, DataError)
    assert "\n" not in message
