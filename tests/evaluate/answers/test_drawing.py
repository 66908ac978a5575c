"""Drawn tokens follow the model's distribution, each row with random numbers of its own."""

import math
from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st

from orpo.evaluate.generation import SeededDraws

LOGITS = st.lists(st.floats(-8, 8), min_size=2, max_size=12)


def token(logits: list[float], numbers: list[float], temperature: float, top_p: float) -> list[int]:
    """What generators of these numbers draw, a row each."""
    rows = torch.tensor([logits] * len(numbers))
    generators = [SimpleNamespace(random=lambda u=u: u) for u in numbers]
    scores = SeededDraws(generators, temperature, top_p)(torch.zeros(1, 1), rows)
    assert ((scores == 0).sum(-1) == 1).all()
    assert torch.isneginf(scores).sum() == scores.numel() - len(rows)
    return scores.argmax(-1).tolist()


def oracle(logits: list[float], u: float, temperature: float, top_p: float) -> set[int]:
    """The token at which the sum over the nucleus exceeds u; two where u lies on a border."""
    weights = [math.exp((x - max(logits)) / temperature) for x in logits]
    shares = [w / math.fsum(weights) for w in weights]
    ranked = sorted(range(len(shares)), key=lambda i: (-shares[i], i))
    nucleus, total = [], 0.0
    for i in ranked:
        if nucleus and top_p < 1 and total >= top_p:
            break
        nucleus.append(i)
        total += shares[i]
    kept = sorted(nucleus)
    whole, above, found = math.fsum(shares[i] for i in kept), 0.0, set()
    for i in kept:
        below, above = above, above + shares[i] / whole
        if below - 1e-5 <= u < above + 1e-5:
            found.add(i)
    return found


@given(LOGITS, st.floats(0, 0.999999), st.floats(0.2, 3))
def test_the_token_is_the_one_that_inversion_gives(
    logits: list[float], u: float, temperature: float
) -> None:
    (drawn,) = token(logits, [u], temperature, 1.0)
    assert drawn in oracle(logits, u, temperature, 1.0)


def test_only_tokens_of_the_nucleus_are_drawn() -> None:
    logits = [math.log(p) for p in (0.05, 0.5, 0.15, 0.3)]
    for top_p, members in [(0.4, {1}), (0.6, {1, 3}), (0.9, {1, 2, 3}), (1.0, {0, 1, 2, 3})]:
        numbers = [n / 500 for n in range(500)]
        drawn = token(logits, numbers, 1.0, top_p)
        assert set(drawn) == members
        assert all(
            one in oracle(logits, u, 1.0, top_p) for one, u in zip(drawn, numbers, strict=True)
        )


def test_the_greatest_number_draws_a_token_that_is_possible() -> None:
    logits = [0.0, 1.0, -1e4]
    assert token(logits, [1 - 2**-53], 1.0, 1.0) == [1]
