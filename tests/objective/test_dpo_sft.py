"""The two objectives that ORPO is compared with."""

import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from orpo.objective import reference
from orpo.objective.dpo import dpo_loss
from orpo.objective.orpo import orpo_loss
from orpo.objective.sft import sft_loss

sums = st.floats(-2000.0, -0.01)
moderate = st.floats(-20.0, -0.01)
Loss = Callable[..., Tensor]


def oracle(sums: list[float], beta: float) -> tuple[float, float]:
    """The loss of one pair and its derivative with respect to log pi(y_w|x), with 60 digits."""
    with mpmath.workdps(60):
        chosen, rejected, reference_chosen, reference_rejected = map(mpmath.mpf, sums)
        margin = (chosen - reference_chosen) - (rejected - reference_rejected)
        loss = mpmath.log1p(mpmath.exp(-beta * margin))
        return float(loss), float(-beta / (1 + mpmath.exp(beta * margin)))


def ours(*inputs: Tensor, beta: float) -> Tensor:
    return dpo_loss(*inputs, beta=beta).loss


def mistake(loss: Loss, values: list[float], beta: float) -> str:
    inputs = [torch.tensor([x], dtype=torch.float32) for x in values]
    inputs[0].requires_grad_()
    value = loss(*inputs, beta=beta)
    value.backward()
    wanted, wanted_slope = oracle([x.item() for x in inputs], beta)
    slope = inputs[0].grad
    assert slope is not None
    # Sums of hundreds round to 1e-4; so does the margin, and beta times that is the loss's share.
    error = beta * 4 * max(map(abs, values)) * 2.0**-24
    if not abs(value.item() - wanted) <= 1e-6 * wanted + error * -wanted_slope / beta + 1e-12:
        return f"loss is {value.item()} instead of {wanted}"
    if not abs(slope.item() - wanted_slope) <= (1e-6 + error) * -wanted_slope + 1e-12:
        return f"slope is {slope.item()} instead of {wanted_slope}"
    return ""


@given(st.lists(sums, min_size=4, max_size=4), st.sampled_from([0.01, 0.1, 0.5]))
def test_dpo_equals_sixty_digits(values: list[float], beta: float) -> None:
    assert mistake(ours, values, beta) == ""


@pytest.mark.parametrize(
    "wrong",
    [
        lambda c, r, rc, rr, *, beta: ours(r, c, rr, rc, beta=beta),
        lambda c, r, rc, rr, *, beta: ours(c, r, rr, rc, beta=beta),
        lambda c, r, rc, rr, *, beta: ours(c, r, rc, rr, beta=1.0),
        lambda c, r, rc, rr, *, beta: ours(
            c, r, torch.zeros_like(c), torch.zeros_like(c), beta=beta
        ),
    ],
    ids=["answers swapped", "references swapped", "no beta", "no reference"],
)
def test_the_check_rejects_planted_mistakes(wrong: Loss) -> None:
    values = [-30.0, -45.0, -32.0, -41.0]
    assert mistake(ours, values, 0.1) == ""
    assert mistake(wrong, values, 0.1) != ""


@given(st.lists(st.lists(moderate, min_size=4, max_size=4), min_size=1, max_size=5))
def test_dpo_equals_the_paper_in_float64(pairs: list[list[float]]) -> None:
    inputs = [torch.tensor(x, dtype=torch.float64) for x in zip(*pairs, strict=True)]
    expected = reference.dpo_loss((inputs[0], inputs[1]), (inputs[2], inputs[3]), 0.3)
    torch.testing.assert_close(ours(*inputs, beta=0.3), expected, rtol=1e-11, atol=0)


def test_dpo_gradcheck_in_float64() -> None:
    inputs = [torch.tensor([-3.0, -9.0 - i], dtype=torch.float64) for i in range(4)]
    inputs[0].requires_grad_()
    inputs[1].requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: ours(*x, beta=0.2), inputs)


def test_dpo_starts_at_log_two_and_its_parts_fit() -> None:
    chosen, rejected = torch.tensor([-5.0, -7.0]), torch.tensor([-6.0, -3.0])
    assert dpo_loss(chosen, rejected, chosen, rejected).loss.item() == pytest.approx(math.log(2))
    result = dpo_loss(chosen, rejected, rejected, rejected, beta=0.5)
    torch.testing.assert_close(result.margins, chosen - rejected)
    expected = torch.log(1 / (1 + torch.exp(-0.5 * (chosen - rejected))))
    torch.testing.assert_close(result.log_sigmoid, expected)
    torch.testing.assert_close(result.loss, -expected.mean())
    torch.testing.assert_close(result.chosen_rewards, 0.5 * (chosen - rejected))
    torch.testing.assert_close(result.rejected_rewards, torch.zeros(2))
    tuned = dpo_loss(chosen.clone().requires_grad_(), chosen, rejected, rejected)
    assert tuned.loss.requires_grad
    assert not tuned.chosen_rewards.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_give_float32_results(dtype: torch.dtype) -> None:
    x = torch.tensor([-5.0, -8.0], dtype=dtype)
    assert dpo_loss(x, 2 * x, x, x).loss.dtype == torch.float32
    assert sft_loss(-x).loss.dtype == torch.float32


@pytest.mark.parametrize("odd", range(4))
@pytest.mark.parametrize("shape", [(3,), (2, 1), ()])
def test_dpo_never_broadcasts(odd: int, shape: tuple[int, ...]) -> None:
    inputs = [torch.full((2,), -1.0) for _ in range(4)]
    inputs[odd] = torch.full(shape, -1.0)
    with pytest.raises(ValueError, match=r"one shape \(pairs,\)"):
        dpo_loss(*inputs)


@given(st.lists(st.floats(0, 50), min_size=1, max_size=7))
def test_sft_is_the_mean_and_orpo_without_preference(values: list[float]) -> None:
    nll = torch.tensor(values, dtype=torch.float64)
    result = sft_loss(nll)
    assert result.loss.item() == pytest.approx(sum(values) / len(values))
    assert torch.equal(result.loss, result.nll_loss)
    with_pairs = orpo_loss(torch.full_like(nll, -1.0), torch.full_like(nll, -2.0), nll, alpha=0.0)
    assert torch.equal(result.loss, with_pairs.loss)


@pytest.mark.parametrize("shape", [(), (2, 1)])
def test_sft_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"one shape \(pairs,\)"):
        sft_loss(torch.zeros(shape))


def test_sft_carries_the_gradient() -> None:
    nll = torch.tensor([1.0, 3.0], requires_grad=True)
    sft_loss(nll).loss.backward()
    assert nll.grad is not None
    assert nll.grad.tolist() == [0.5, 0.5]
