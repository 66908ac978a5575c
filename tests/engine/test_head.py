"""The naive head: log-probabilities where they are asked for, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from orpo.engine.head import sum_dtype, token_logps


def exact_logps(logits: Tensor, input_ids: Tensor) -> Tensor:
    """log p(token | tokens before it), token by token in float64; zero at position 0."""
    result = torch.zeros(input_ids.shape, dtype=torch.float64)
    for row in range(input_ids.shape[0]):
        for position in range(1, input_ids.shape[1]):
            scores = logits[row, position - 1].double()
            log_total = torch.log(torch.exp(scores - scores.max()).sum()) + scores.max()
            result[row, position] = scores[input_ids[row, position]] - log_total
    return result


def random_inputs(seed: int, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(3, 7, 11, generator=generator)
    input_ids = torch.randint(0, 11, (3, 7), generator=generator)
    predicted = torch.rand(3, 7, generator=generator) < 0.5
    predicted[:, 0] = False
    return logits, input_ids, predicted


@given(seed=st.integers(0, 2**32), scale=st.sampled_from([1e-3, 1.0, 30.0, 1e4]))
def test_equals_a_log_softmax_in_float64(seed: int, scale: float) -> None:
    logits, input_ids, predicted = random_inputs(seed, scale)
    found = token_logps(logits, input_ids, predicted)
    expected = exact_logps(logits, input_ids) * predicted
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6 * max(scale, 1))
    assert bool((found[~predicted] == 0).all())


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
    logits, input_ids, predicted = random_inputs(1)
    logits = logits.to(dtype)
    found = token_logps(logits, input_ids, predicted)
    assert found.dtype == computed
    # The rounding of the logits themselves is the model's; from there on nothing is lost.
    torch.testing.assert_close(
        found.double(), exact_logps(logits, input_ids) * predicted, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("which", ["none", "all but the first", "only the last", "only the second"])
def test_masks_at_the_edge(which: str) -> None:
    logits, input_ids, _ = random_inputs(2)
    predicted = torch.zeros(3, 7, dtype=torch.bool)
    if which == "all but the first":
        predicted[:, 1:] = True
    elif which == "only the last":
        predicted[:, -1] = True
    elif which == "only the second":
        predicted[1, 1] = True
    found = token_logps(logits, input_ids, predicted)
    expected = (exact_logps(logits, input_ids) * predicted).float()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_sequences_of_one_token_predict_nothing() -> None:
    logits, input_ids = torch.randn(2, 1, 5), torch.zeros(2, 1, dtype=torch.int64)
    found = token_logps(logits, input_ids, torch.zeros(2, 1, dtype=torch.bool))
    assert torch.equal(found, torch.zeros(2, 1))


def test_gradient_reaches_what_was_asked_for_and_nothing_else() -> None:
    logits, input_ids, predicted = random_inputs(3)
    logits = logits.double().requires_grad_()
    weights = torch.randn(3, 7, dtype=torch.float64)

    def total(values: Tensor) -> Tensor:
        return (token_logps(values, input_ids, predicted) * weights).sum()

    assert torch.autograd.gradcheck(total, logits)
    total(logits).backward()
    assert logits.grad is not None
    asked = torch.zeros_like(predicted)
    asked[:, :-1] = predicted[:, 1:]
    assert bool((logits.grad[~asked] == 0).all())
    assert bool((logits.grad[asked] != 0).any(-1).all())


def test_tokens_that_the_model_excludes_are_impossible() -> None:
    logits, input_ids, predicted = random_inputs(4)
    predicted[:, 1:] = True
    logits[0, 2, input_ids[0, 3]] = float("-inf")
    found = token_logps(logits, input_ids, predicted)
    assert found[0, 3] == float("-inf")
    assert int(found.isfinite().sum()) == 3 * 7 - 1


def test_sums_are_taken_in_float64_where_there_is_one() -> None:
    assert sum_dtype(torch.zeros(1)) == torch.float64
    assert sum_dtype(torch.zeros(1, dtype=torch.bfloat16)) == torch.float64
