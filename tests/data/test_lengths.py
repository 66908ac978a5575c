"""Over-long pairs: what each policy keeps, cuts and drops, for every combination of lengths."""

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
Outcome = TokenizedPair | Dropped | None


class Case(NamedTuple):
    policy: LengthPolicy
    pair: TokenizedPair
    prefix: int


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
policies = st.builds(
    lambda limit, how: LengthPolicy(*limit, how), limits, st.sampled_from(TRUNCATIONS)
)


def fit(case: Case) -> Outcome:
    """What becomes of a pair; None where the policy stops the run."""
    try:
        return case.policy.fit(case.pair, "pairs.jsonl:6", case.prefix)
    except TooLongError:
        return None


def fits(policy: LengthPolicy, pair: TokenizedPair) -> bool:
    prompt, longest = len(pair.prompt_ids), max(len(pair.chosen_ids), len(pair.rejected_ids))
    whole = policy.max_length is None or prompt + longest <= policy.max_length
    return whole and (policy.max_prompt_length is None or prompt <= policy.max_prompt_length)


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


def fault(case: Case, outcome: Outcome) -> str:
    """What is wrong with the outcome of a case; empty if nothing."""
    policy, pair, _ = case
    if fits(policy, pair):
        return "" if outcome == pair else "a pair that fits was touched"
    if policy.truncation == "error":
        return "" if outcome is None else "the run did not stop"
    if policy.truncation == "drop":
        ok = isinstance(outcome, Dropped) and outcome.reason == "too_long"
        return "" if ok else "the pair was not dropped"
    length, longest = prompt_length(case), max(len(pair.chosen_ids), len(pair.rejected_ids))
    room = 10**9 if policy.max_length is None else policy.max_length - (length or 0)
    too_little = length is None or room < min(longest, MIN_ANSWER_ROOM)
    if isinstance(outcome, Dropped):
        named = (outcome.reason, outcome.where) == ("prompt_too_long", "pairs.jsonl:6")
        return "" if named and too_little else f"dropped as {outcome.reason}"
    if outcome is None or too_little:
        return "the run stopped, or the pair was kept with too little room"
    return fault_of_prompt(case, outcome, length or 0) or fault_of_answers(case, outcome, room)


def fault_of_prompt(case: Case, outcome: TokenizedPair, length: int) -> str:
    whole, kept = case.pair.prompt_ids, outcome.prompt_ids
    if len(kept) != length:
        return f"{len(kept)} tokens of the prompt instead of {length}"
    if ("prompt" in outcome.cut) != (kept != whole):
        return "the cut of the prompt is not told"
    start = min(case.prefix, length) if case.policy.truncation == "keep_end" else length
    right = kept == whole[:start] + whole[len(whole) - (length - start) :]
    return "" if right else "not the end of the prompt that should stand"


def fault_of_answers(case: Case, outcome: TokenizedPair, room: int) -> str:
    for name in ("chosen", "rejected"):
        whole, kept = getattr(case.pair, f"{name}_ids"), getattr(outcome, f"{name}_ids")
        if kept != whole[:room]:
            return f"{name} is not cut on its own to the room"
        if (name in outcome.cut) != (len(kept) < len(whole)):
            return f"the cut of {name} is not told"
        if not kept or (kept[-1] == END) != (name not in outcome.cut):
            return f"the end of {name} tells a cut answer to stop there"
    if not fits(case.policy, outcome):
        return "kept beyond the limits"
    return "" if outcome.row == case.pair.row else "the row got lost"


@settings(max_examples=400)
@given(st.builds(Case, policies, pairs, st.integers(0, 1)))
@example(Case(LengthPolicy(32), make_pair(16, 17, 3), 1))
@example(Case(LengthPolicy(32), make_pair(17, 17, 3), 1))
@example(Case(LengthPolicy(1, None, "keep_end"), make_pair(5, 5, 5), 1))
@example(Case(LengthPolicy(None, 1, "keep_end"), make_pair(5, 5, 5), 1))
def test_every_pair_is_treated_as_documented(case: Case) -> None:
    assert fault(case, fit(case)) == ""


def cut(case: Case, room: int) -> TokenizedPair:
    pair = case.pair
    return replace(pair, chosen_ids=pair.chosen_ids[:room], rejected_ids=pair.rejected_ids[:room])


def changed(case: Case, change: Callable[[TokenizedPair], TokenizedPair]) -> Outcome:
    kept = fit(case)
    return change(kept) if isinstance(kept, TokenizedPair) else kept


WRONG: dict[str, Callable[[Case], Outcome]] = {
    "to fit the other": lambda case: cut(
        case, min(len(case.pair.chosen_ids), len(case.pair.rejected_ids))
    ),
    "never dropping": lambda case: cut(
        case, max((case.policy.max_length or 0) - len(case.pair.prompt_ids), 0)
    ),
    "ending all the same": lambda case: changed(
        case, lambda kept: replace(kept, chosen_ids=[*kept.chosen_ids[:-1], END])
    ),
    "forgetting BOS": lambda case: fit(case._replace(prefix=0)),
    "silently": lambda case: changed(case, lambda kept: replace(kept, cut=())),
    "dropping all": lambda _: Dropped("too_long", "pairs.jsonl:6"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_check_rejects_planted_mistakes(wrong: str) -> None:
    planted = [
        Case(LengthPolicy(64), make_pair(30, 50, 10), 1),
        Case(LengthPolicy(64), make_pair(60, 50, 10), 1),
        Case(LengthPolicy(64, None, "keep_end"), make_pair(60, 20, 10), 1),
        Case(LengthPolicy(64), make_pair(5, 6, 7), 1),
    ]
    assert not any(fault(case, fit(case)) for case in planted)
    assert any(fault(case, WRONG[wrong](case)) for case in planted)


def test_drops_say_the_lengths_and_sixteen_tokens_are_the_least_room() -> None:
    assert MIN_ANSWER_ROOM == 16
    dropped = LengthPolicy(32).fit(make_pair(17, 40, 3), "here")
    assert isinstance(dropped, Dropped)
    assert dropped.detail == "prompt 17, chosen 40, rejected 3 tokens"
    pair = TokenizedPair([BOS], [*range(5, 60), 70, END], [*range(5, 60), 80, END], row=0)
    dropped = LengthPolicy(40).fit(pair, "pairs.jsonl:1")
    assert isinstance(dropped, Dropped)
    assert dropped.reason == "identical_after_truncation"


def test_error_names_row_lengths_and_limits() -> None:
    with pytest.raises(TooLongError) as caught:
        LengthPolicy(32, 8, "error").fit(make_pair(9, 30, 3), "pairs.jsonl:7")
    message = str(caught.value)
    assert message.startswith("pairs.jsonl:7: the pair is too long (prompt 9, chosen 30, rejected ")
    assert "max_length=32, max_prompt_length=8" in message
    assert isinstance(caught.value, DataError)
    assert "\n" not in message
