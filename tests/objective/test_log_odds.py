"""The log-odds: right and finite for every log-probability a that a model can give."""

import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from orpo import log_odds as public_log_odds
from orpo.objective.log_odds import RESOLUTION, log1mexp, log_odds

LogOdds = Callable[[Tensor], Tensor]

# Where branches switch, where exp underflows, where one float32 step matters.
LANDMARKS = [
    *(-(10.0**exponent) for exponent in range(-6, 5)),
    *(-math.log(2.0) * (1 + shift) for shift in (-1e-6, 0.0, 1e-6)),
    *(-2.0, -5.0, -16.5, -17.5, -87.3, -88.8, -103.9, -104.1),
]
CERTAIN = [0.0, -1e-45, -1e-30, -1e-12, -1e-8, -5.96e-8, -RESOLUTION, -1.5e-7, -9.9e-7]

averages = st.floats(math.log(1e-6), math.log(1e4)).map(lambda exponent: -math.exp(exponent))


def oracle(a: float) -> tuple[float, float]:
    """log(P / (1 - P)) and its derivative 1 / (1 - P) with sixty digits, from P = e^a itself."""
    with mpmath.workdps(60):
        # e^-10000 has 4343 zeros before its first digit; 1 - P is taken exactly all the same.
        gap = -mpmath.expm1(mpmath.mpf(a))
        return float(mpmath.mpf(a) - mpmath.log(gap)), float(1 / gap)


def value_and_slope(function: LogOdds, a: float) -> tuple[float, float]:
    tensor = torch.tensor([a], dtype=torch.float32, requires_grad=True)
    value = function(tensor)
    value.sum().backward()
    assert tensor.grad is not None
    return value.item(), tensor.grad.item()


def mistake(function: LogOdds, a: float) -> str:
    """What is wrong with a log-odds function at one float32 log-probability; empty if nothing."""
    a = torch.tensor(a, dtype=torch.float32).item()
    found, slope = value_and_slope(function, a)
    if not (math.isfinite(found) and math.isfinite(slope)):
        return f"a={a}: not finite ({found}, slope {slope})"
    if a > -1e-6:
        return ""  # within a few float32 steps of certainty only being finite is asked
    wanted, wanted_slope = oracle(a)
    # The log-odds cross zero at a = -log 2, where float32 resolves them to about 1e-7.
    if abs(found - wanted) > 1e-6 * max(abs(wanted), 0.2):
        return f"a={a}: {found} instead of {wanted}"
    if abs(slope - wanted_slope) > 1e-6 * wanted_slope:
        return f"a={a}: slope {slope} instead of {wanted_slope}"
    return ""


def two_branches(a: Tensor) -> Tensor:
    """TRL's way: `torch.where` over two branches, differentiated automatically."""
    log1mexp = torch.where(
        a < -0.6931471805599453, torch.log1p(-torch.exp(a)), torch.log(-torch.expm1(a))
    )
    return a - log1mexp


def one_branch(a: Tensor) -> Tensor:
    """The official code's and Liger's way."""
    return a - torch.log1p(-torch.exp(a))


def clamped(a: Tensor) -> Tensor:
    """Finite, but with little precision and no gradient next to certainty."""
    return a - torch.log((1 - torch.exp(a)).clamp(min=1e-6))


def detached(a: Tensor) -> Tensor:
    """The right value with the slope of the log-probability alone."""
    return log_odds(a).detach() + a - a.detach()


def without_the_denominator(a: Tensor) -> Tensor:
    """The log-probability alone."""
    return a


@pytest.mark.parametrize("a", LANDMARKS + CERTAIN)
def test_right_and_finite_at_landmarks(a: float) -> None:
    assert mistake(log_odds, a) == ""


@given(averages)
def test_right_and_finite_everywhere(a: float) -> None:
    assert mistake(log_odds, a) == ""


@given(st.floats(-1e-6, 0.0))
def test_finite_next_to_certainty(a: float) -> None:
    value, slope = value_and_slope(log_odds, a)
    assert math.isfinite(value)
    # A certain answer keeps a slope, so that it can be left again.
    assert 1e5 < slope < 1e8


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (two_branches, "not finite"),
        (one_branch, "not finite"),
        (clamped, "instead of"),
        (detached, "slope"),
        (without_the_denominator, "instead of"),
    ],
)
def test_the_check_rejects_the_usual_ways(wrong: LogOdds, complaint: str) -> None:
    mistakes = [mistake(wrong, a) for a in LANDMARKS + CERTAIN]
    assert any(complaint in found for found in mistakes)


def test_a_probability_above_one_by_rounding_counts_as_certain() -> None:
    assert value_and_slope(log_odds, 1e-3) == value_and_slope(log_odds, 0.0)


@given(averages, averages)
def test_a_likelier_answer_has_higher_log_odds(one: float, other: float) -> None:
    low, high = torch.tensor(sorted((one, other)), dtype=torch.float32)
    assert log_odds(low[None]) <= log_odds(high[None])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_dtypes_give_float32_results(dtype: torch.dtype) -> None:
    a = torch.tensor([-3.0, -0.5, -0.25], dtype=dtype)
    assert log_odds(a).dtype == torch.float32
    torch.testing.assert_close(log_odds(a), log_odds(a.float()), rtol=0, atol=0)


def test_float64_stays_float64() -> None:
    a = torch.tensor([-0.7, -2.0], dtype=torch.float64)
    expected = torch.tensor([oracle(x)[0] for x in a.tolist()], dtype=torch.float64)
    torch.testing.assert_close(log_odds(a), expected, rtol=1e-14, atol=0)


def test_derivatives_of_both_orders_in_float64() -> None:
    a = -torch.logspace(-3, 2, 12, dtype=torch.float64)
    a.requires_grad_()
    assert torch.autograd.gradcheck(log_odds, (a,))
    assert torch.autograd.gradgradcheck(log_odds, (a,))


@given(averages)
def test_log1mexp_is_accurate_at_both_ends(a: float) -> None:
    with mpmath.workdps(60):
        expected = float(mpmath.log1p(-mpmath.exp(mpmath.mpf(a))))
    found = log1mexp(torch.tensor([a], dtype=torch.float64)).item()
    assert found == pytest.approx(expected, rel=1e-14, abs=1e-300)


def test_the_public_name_is_this_function() -> None:
    assert public_log_odds is log_odds
