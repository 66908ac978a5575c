"""The ORPO loss: the paper's equations, to float32 accuracy, with both strengths where they belong.

Every check runs on planted mistakes too and must reject them.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

import orpo
from orpo.objective import reference
from orpo.objective.orpo import orpo_loss
from orpo.objective.types import PairLogps

averages = st.floats(math.log(1e-6), math.log(1e4)).map(lambda exponent: -math.exp(exponent))
moderate = st.floats(-8.0, -0.02)
strengths = st.sampled_from([0.05, 0.1, 0.25, 1.0])
temperatures = st.sampled_from([0.1, 0.5, 1.0])

Loss = Callable[..., Tensor]


class Answer(NamedTuple):
    """A loss and its derivatives with respect to l(y_w), l(y_l) and the NLL of one pair."""

    loss: Any
    chosen: Any
    rejected: Any
    nll: Any


def oracle(chosen: float, rejected: float, nll: float, alpha: float, beta: float) -> Answer:
    """Eqs. 4-7 with sixty digits."""
    with mpmath.workdps(60):
        l_w, l_l, alpha, beta = map(mpmath.mpf, (chosen, rejected, alpha, beta))
        miss_w, miss_l = -mpmath.expm1(l_w), -mpmath.expm1(l_l)
        odds_ratio = (mpmath.exp(l_w) / miss_w) / (mpmath.exp(l_l) / miss_l)
        wrong = 1 / (1 + odds_ratio**beta)  # 1 - sigmoid(beta * log OR)
        preference = mpmath.log1p(odds_ratio ** (-beta))
        return Answer(
            nll + alpha * preference,
            -alpha * beta * wrong / miss_w,
            alpha * beta * wrong / miss_l,
            1.0,
        )


def ours(chosen: Tensor, rejected: Tensor, nll: Tensor, *, alpha: float, beta: float) -> Tensor:
    return orpo_loss(chosen, rejected, nll, alpha=alpha, beta=beta).loss


def trl(chosen: Tensor, rejected: Tensor, nll: Tensor, *, alpha: float, beta: float) -> Tensor:
    """`odds_ratio_loss` of TRL's ORPOTrainer, which has no temperature; its beta is our alpha."""
    assert beta == 1.0

    def log1mexp(x: Tensor) -> Tensor:
        t = -0.6931471805599453
        return torch.where(x < t, torch.log1p(-torch.exp(x)), torch.log(-torch.expm1(x)))

    log_odds = (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))
    losses = alpha * F.logsigmoid(log_odds)
    return nll.mean() - losses.mean()


def evaluate(
    loss: Loss, chosen: float, rejected: float, nll: float, alpha: float, beta: float
) -> Answer:
    """The loss and gradient of a float32 implementation for one pair."""
    inputs = [torch.tensor([x], dtype=torch.float32) for x in (chosen, rejected, nll)]
    for tensor in inputs:
        tensor.requires_grad_()
    value = loss(*inputs, alpha=alpha, beta=beta)
    value.backward()
    slopes = [0.0 if x.grad is None else x.grad.item() for x in inputs]
    return Answer(value.item(), *slopes)


def mistake(
    loss: Loss, chosen: float, rejected: float, alpha: float, beta: float, nll: float = 0.0
) -> str:
    """What is wrong with an implementation for one pair; empty if nothing."""
    chosen, rejected = torch.tensor([chosen, rejected], dtype=torch.float32).tolist()
    found = evaluate(loss, chosen, rejected, nll, alpha, beta)
    for name, x in zip(Answer._fields, found, strict=True):
        if not math.isfinite(x):
            return f"{name} is {x}"
    if max(chosen, rejected) > -1e-6:
        return ""  # within a few float32 steps of certainty only being finite is asked
    wanted = oracle(chosen, rejected, nll, alpha, beta)
    for name, x, y in zip(Answer._fields, found, wanted, strict=True):
        # softplus(-z) loses |z| / 2^24 to the rounding of z; that passes 1e-6 beyond |z| = 16,
        # where it is itself below 1e-7 and only its distance from zero matters.
        floor = alpha * beta * 1e-9 / min(-math.expm1(chosen), -math.expm1(rejected))
        if abs(x - y) > 1e-6 * abs(y) + floor:
            return f"{name} is {x} instead of {float(y)}"
    return ""


PLANTED: dict[str, Loss] = {
    "answers swapped": lambda c, r, n, *, alpha, beta: ours(r, c, n, alpha=alpha, beta=beta),
    "alpha and beta swapped": lambda c, r, n, *, alpha, beta: ours(c, r, n, alpha=beta, beta=alpha),
    "no temperature": lambda c, r, n, *, alpha, beta: ours(c, r, n, alpha=alpha, beta=1.0),
    "alpha on both terms": lambda c, r, n, *, alpha, beta: (
        alpha * ours(c, r, n, alpha=1.0, beta=beta)
    ),
    "log-probabilities for odds": lambda c, r, n, *, alpha, beta: (
        n.mean() - alpha * F.logsigmoid(beta * (c - r)).mean()
    ),
    "half precision": lambda c, r, n, *, alpha, beta: ours(
        c.bfloat16(), r.bfloat16(), n, alpha=alpha, beta=beta
    ),
    "nll left out": lambda c, r, n, *, alpha, beta: ours(c, r, 0 * n, alpha=alpha, beta=beta),
}


@given(averages, averages, strengths, temperatures)
@example(-1e4, -1e-6, 1.0, 1.0)
@example(-1e-6, -1e4, 1.0, 1.0)
@example(-1e-6, -1e-6, 1.0, 1.0)
@example(-9.87, -9.870001, 1.0, 1.0)
def test_loss_and_gradient_equal_sixty_digits(
    chosen: float, rejected: float, alpha: float, beta: float
) -> None:
    assert mistake(ours, chosen, rejected, alpha, beta) == ""


@given(averages, st.floats(-1e-4, 1e-4), strengths, temperatures)
def test_nearly_equal_answers_are_told_apart(
    chosen: float, difference: float, alpha: float, beta: float
) -> None:
    assert mistake(ours, chosen, chosen * (1 + difference), alpha, beta) == ""


@pytest.mark.parametrize("chosen", [0.0, -1e-45, -1e-12, -1e-8, -1e-7, -9e-7, -0.5, -1e4])
@pytest.mark.parametrize("rejected", [0.0, -1e-45, -1e-12, -1e-8, -1e-7, -9e-7, -0.5, -1e4])
def test_finite_up_to_certainty(chosen: float, rejected: float) -> None:
    assert mistake(ours, chosen, rejected, 1.0, 1.0) == ""


@pytest.mark.parametrize("name", PLANTED)
def test_the_check_rejects_planted_mistakes(name: str) -> None:
    pairs = [(-0.9, -1.7), (-2.3, -0.4)]
    assert all(mistake(ours, *pair, 0.25, 0.5, nll=1.25) == "" for pair in pairs)
    assert any(mistake(PLANTED[name], *pair, 0.25, 0.5, nll=1.25) for pair in pairs)


@given(moderate, moderate, strengths, st.floats(0.1, 9.0))
def test_trl_means_the_same_for_ordinary_values(
    chosen: float, rejected: float, alpha: float, nll: float
) -> None:
    theirs = evaluate(trl, chosen, rejected, nll, alpha, 1.0)
    assert evaluate(ours, chosen, rejected, nll, alpha, 1.0) == pytest.approx(theirs, rel=2e-5)


def test_the_check_finds_the_nan_in_trls_gradient() -> None:
    assert mistake(trl, -1e-8, -1.0, 1.0, 1.0) == "chosen is nan"
    assert mistake(trl, -1.0, -1e-8, 1.0, 1.0) == "rejected is nan"
    assert mistake(ours, -1e-8, -1.0, 1.0, 1.0) == ""
    assert mistake(ours, -1.0, -1e-8, 1.0, 1.0) == ""


@given(st.lists(st.tuples(moderate, moderate, st.floats(0, 9)), min_size=1, max_size=6))
def test_equals_the_paper_equation_by_equation(pairs: list[tuple[float, float, float]]) -> None:
    chosen, rejected, nll = (torch.tensor(x, dtype=torch.float64) for x in zip(*pairs, strict=True))
    expected = reference.orpo_loss(chosen, rejected, nll, alpha=0.3, beta=0.7)
    found = ours(chosen, rejected, nll, alpha=0.3, beta=0.7)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)


def test_gradcheck_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    draw = torch.rand(3, 5, generator=generator, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (-3 * draw[0] - 0.01, -3 * draw[1] - 0.01, draw[2])]
    assert torch.autograd.gradcheck(lambda c, r, n: ours(c, r, n, alpha=0.4, beta=0.6), inputs)


@given(
    st.lists(st.tuples(averages, averages, st.floats(0, 20)), min_size=1, max_size=5),
    strengths,
    temperatures,
)
def test_a_batch_is_the_mean_of_its_pairs(
    pairs: list[tuple[float, float, float]], alpha: float, beta: float
) -> None:
    columns = [torch.tensor(x, dtype=torch.float64) for x in zip(*pairs, strict=True)]
    whole = ours(*columns, alpha=alpha, beta=beta)
    single = [
        ours(*(x[i : i + 1] for x in columns), alpha=alpha, beta=beta) for i in range(len(pairs))
    ]
    torch.testing.assert_close(whole, torch.stack(single).mean(), rtol=1e-12, atol=0)


@given(moderate, moderate, strengths, temperatures)
def test_the_parts_make_the_whole(
    chosen: float, rejected: float, alpha: float, beta: float
) -> None:
    inputs = [torch.tensor([x], requires_grad=True) for x in (chosen, rejected, 2.5)]
    result = orpo_loss(*inputs, alpha=alpha, beta=beta)
    assert result.loss.requires_grad
    assert not result.chosen_rewards.requires_grad
    assert not result.rejected_rewards.requires_grad
    torch.testing.assert_close(result.loss, result.nll_loss + alpha * result.odds_ratio_loss)
    torch.testing.assert_close(result.odds_ratio_loss, -result.log_odds_ratio.mean())
    torch.testing.assert_close(result.log_odds, result.chosen_log_odds - result.rejected_log_odds)
    torch.testing.assert_close(result.log_odds_ratio, F.logsigmoid(beta * result.log_odds))
    torch.testing.assert_close(result.chosen_rewards, torch.tensor([alpha * beta * chosen]))
    torch.testing.assert_close(result.rejected_rewards, torch.tensor([alpha * beta * rejected]))


def test_the_defaults_are_the_papers() -> None:
    inputs = torch.tensor([-1.0]), torch.tensor([-2.0]), torch.tensor([3.0])
    assert torch.equal(orpo_loss(*inputs).loss, orpo_loss(*inputs, alpha=0.1, beta=1.0).loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_give_float32_results(dtype: torch.dtype) -> None:
    inputs = [
        torch.tensor(x, dtype=dtype, requires_grad=True)
        for x in ([-1.5, -0.25], [-2.0, -3.5], [4.0, 2.0])
    ]
    result = orpo_loss(*inputs, alpha=0.1, beta=1.0)
    for field in dataclasses.fields(result):
        assert getattr(result, field.name).dtype == torch.float32, field.name
    exact = orpo_loss(*(x.detach().float() for x in inputs), alpha=0.1, beta=1.0)
    assert torch.equal(result.loss, exact.loss)
    result.loss.backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in inputs)


@pytest.mark.parametrize(
    "shapes",
    [
        ((2,), (3,), (2,)),
        ((2,), (2,), (1,)),
        ((2, 1), (2, 1), (2, 1)),
        ((), (), ()),
        ((2,), (2, 1), (2,)),
        ((2,), (2,), ()),
    ],
)
def test_other_shapes_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match=r"one shape \(pairs,\)"):
        orpo_loss(*(torch.full(shape, -1.0) for shape in shapes))


def test_public_name_and_frozen_result() -> None:
    assert orpo.orpo_loss is orpo_loss
    result = orpo_loss(torch.tensor([-1.0]), torch.tensor([-2.0]), torch.tensor([3.0]))
    assert isinstance(result, orpo.ORPOLoss)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.loss = torch.tensor(0.0)  # type: ignore[misc]


@given(st.lists(moderate, min_size=1, max_size=9), st.lists(moderate, min_size=1, max_size=9))
def test_pair_logps_are_averages_over_the_answers_tokens(
    chosen: list[float], rejected: list[float]
) -> None:
    tokens = [torch.tensor(x, dtype=torch.float64) for x in (chosen, rejected)]
    logps = PairLogps(
        chosen_sum=tokens[0].sum()[None],
        chosen_tokens=torch.tensor([len(chosen)]),
        rejected_sum=tokens[1].sum()[None],
        rejected_tokens=torch.tensor([len(rejected)]),
        nll_sum=-tokens[0].sum()[None],
        nll_tokens=torch.tensor([len(chosen)]),
    )
    for found, answer in zip((logps.chosen_logps, logps.rejected_logps), tokens, strict=True):
        torch.testing.assert_close(found, reference.average_logp(answer)[None])
