"""The naive head: log-probabilities where they are asked for, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from orpo.engine.head import as_pair_logps, count_pairs, sum_dtype, sum_pairs, token_logps
from orpo.engine.layout import Predictions


def exact_logps(logits: Tensor, asked: Predictions) -> Tensor:
    """log p of each token that is asked for, one by one in float64."""
    rows = logits.reshape(-1, logits.shape[-1]).double()
    result = torch.zeros(len(asked.target), dtype=torch.float64)
    for i, (source, target) in enumerate(zip(asked.source, asked.target, strict=True)):
        scores = rows[source]
        log_total = torch.log(torch.exp(scores - scores.max()).sum()) + scores.max()
        result[i] = scores[target] - log_total
    return result


def predictions_of(source: list[int], counts: tuple[int, ...], seed: int = 0) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    bounds = [0]
    for count in counts:
        bounds.append(bounds[-1] + count)
    assert bounds[-1] == len(source)
    return Predictions(
        torch.tensor(source, dtype=torch.int64),
        torch.randint(0, 11, (len(source),), generator=generator),
        torch.rand(len(source), 3, generator=generator) < 0.6,
        tuple(bounds),
    )


ASKED = predictions_of([0, 1, 1, 5, 9, 12, 20, 12], (3, 0, 4, 1))
"""Of three rows of seven tokens; one hidden state may be asked twice."""


def random_logits(seed: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(3, 7, 11, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 2**32), scale=st.sampled_from([1e-3, 1.0, 30.0, 1e4]))
def test_equals_a_log_softmax_in_float64(seed: int, scale: float) -> None:
    logits = random_logits(seed, scale)
    found = token_logps(logits, ASKED)
    assert found.dtype == torch.float32
    assert found.shape == (8,)
    torch.testing.assert_close(
        found.double(), exact_logps(logits, ASKED), rtol=1e-6, atol=1e-6 * max(scale, 1)
    )
    assert torch.equal(token_logps(logits.flatten(0, 1), ASKED), found)


@pytest.mark.parametrize(
    ("dtype", "computed"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_computes_in_float32_whatever_comes_in(dtype: torch.dtype, computed: torch.dtype) -> None:
    logits = random_logits(1).to(dtype)
    found = token_logps(logits, ASKED)
    assert found.dtype == computed
    # The rounding of the logits themselves is the model's; from there on nothing is lost.
    torch.testing.assert_close(found.double(), exact_logps(logits, ASKED), rtol=1e-6, atol=1e-6)


def test_nothing_asked_for_is_nothing_found() -> None:
    asked = predictions_of([], (0, 0))
    found = token_logps(random_logits(2), asked)
    assert found.shape == (0,)
    sums = sum_pairs(found, asked)
    assert sums.chosen_sum.tolist() == sums.nll_sum.tolist() == [0, 0]
    assert sums.nll_tokens.tolist() == [0, 0]


def test_gradient_reaches_what_was_asked_for_and_nothing_else() -> None:
    logits = random_logits(3).double().requires_grad_()
    weights = torch.linspace(1, 2, 8, dtype=torch.float64)

    def total(values: Tensor) -> Tensor:
        return (token_logps(values, ASKED) * weights).sum()

    assert torch.autograd.gradcheck(total, logits)
    total(logits).backward()
    assert logits.grad is not None
    reached = (logits.grad.flatten(0, 1) != 0).any(-1).nonzero()[:, 0].tolist()
    assert reached == sorted(set(ASKED.source.tolist()))


def test_tokens_that_the_model_excludes_are_impossible() -> None:
    logits = random_logits(4)
    logits.view(-1, 11)[5, ASKED.target[3]] = float("-inf")
    found = token_logps(logits, ASKED)
    assert found.isfinite().tolist() == [True] * 3 + [False] + [True] * 4


def test_sums_by_pair() -> None:
    logps = torch.linspace(-1, -8, 8, dtype=torch.float64).requires_grad_()
    found = sum_pairs(logps, ASKED)
    for pair, (first, last) in enumerate([(0, 3), (3, 3), (3, 7), (7, 8)]):
        member = ASKED.member[first:last]
        sums = [sum(logps[first:last][member[:, i]].tolist()) for i in range(3)]
        of_pair = [found.chosen_sum[pair], found.rejected_sum[pair], -found.nll_sum[pair]]
        assert [float(x.detach()) for x in of_pair] == pytest.approx(sums)
        counts = [found.chosen_tokens, found.rejected_tokens, found.nll_tokens]
        assert [int(x[pair]) for x in counts] == member.sum(0).tolist()
    assert torch.equal(count_pairs(ASKED)[:, 0], found.chosen_tokens)
    (grad,) = torch.autograd.grad(found.chosen_sum.sum() - 2 * found.nll_sum.sum(), logps)
    assert torch.equal(grad, ASKED.member[:, 0].double() + 2 * ASKED.member[:, 2].double())


def test_columns_have_names() -> None:
    named = as_pair_logps(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[4, 5, 6]]))
    columns = [value.tolist() for value in vars(named).values() if value is not None]
    assert columns == [[1], [4], [2], [5], [-3], [6]]


def test_sums_are_taken_in_float64_where_there_is_one() -> None:
    assert sum_dtype(torch.zeros(1)) == torch.float64
    assert sum_dtype(torch.zeros(1, dtype=torch.bfloat16)) == torch.float64
    assert sum_pairs(torch.zeros(8), ASKED).nll_sum.dtype == torch.float64
