"""Curves of runs with a known disease, and of healthy ones, their noise from a seed."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from orpo.report.series import Observed, read_curves

Path = Callable[[float], float]
"""The true value of a metric where a share of the run is done."""


@dataclass(frozen=True)
class Truth:
    """What a run would log without noise, from `done` = 0 to 1."""

    chosen: Path = lambda done: -1.9 + 0.7 * (1 - math.exp(-4 * done))
    rejected: Path = lambda done: -2.0 - 0.5 * done
    norm: Path = lambda done: 1.2 + 3 * math.exp(-12 * done)
    alpha: float = 0.1
    held_out: Path = lambda done: 0.1  # added to the NLL there
    growth: float = 1.0  # of the answers


HEALTHY = Truth()
DISEASED: dict[str, Truth] = {
    "learning_rate_too_low": replace(
        HEALTHY, chosen=lambda d: -1.9 + 0.001 * d, rejected=lambda d: -2.0 + 0.001 * d
    ),
    "learning_rate_too_high": replace(
        HEALTHY,
        chosen=lambda d: -1.9 - 2.5 * min(1.0, 3 * d),
        rejected=lambda d: -2.0 - 2.5 * min(1.0, 3 * d),
        norm=lambda d: 2 + 30 * d,
    ),
    "chosen_falls": replace(
        HEALTHY, chosen=lambda d: -1.9 - 0.5 * d, rejected=lambda d: -2.0 - 2.5 * d
    ),
    "orpo_alpha_too_high": replace(
        HEALTHY, alpha=20.0, chosen=lambda d: -1.9 - 0.8 * d, rejected=lambda d: -2.0 - 4 * d
    ),
    "orpo_alpha_too_low": replace(
        HEALTHY, alpha=0.0005, rejected=lambda d: -2.0 + 0.7 * (1 - math.exp(-4 * d))
    ),
    "overfitting": replace(HEALTHY, held_out=lambda d: 0.1 + 1.6 * max(0.0, d - 0.3) ** 2),
    "length_creep": replace(HEALTHY, growth=1.7),
}


@dataclass(frozen=True)
class Logged:
    """How a run is logged."""

    steps: int = 100
    noise: float = 0.08  # of a log-probability, from one step to the next
    memory: float = 0.0  # correlation of the noise of neighbouring steps
    evaluations: int = 10
    answers: int = 100


def lines_of(truth: Truth, logged: Logged, seed: int) -> list[dict[str, Any]]:
    """metrics.jsonl of such a run."""
    draw = random.Random(seed)
    shared = other = 0.0
    rest = math.sqrt(1 - logged.memory**2)
    lines = []
    for step in range(1, logged.steps + 1):
        done = step / logged.steps
        shared = logged.memory * shared + rest * draw.gauss(0, logged.noise)
        other = logged.memory * other + rest * draw.gauss(0, logged.noise / 2)
        norm = truth.norm(done) * draw.lognormvariate(0, 0.3)
        rest_of_line = {"grad_norm": norm, "learning_rate": 1e-5 * (1 - done)}
        lines.append(_line(step, truth, done, shared, other) | rest_of_line)
    every = logged.steps // logged.evaluations if logged.evaluations else 0
    for k in range(logged.evaluations + 1 if every else 0):
        done = k * every / logged.steps
        wobble = draw.gauss(0, 0.002)
        found = _line(k * every, truth, done, wobble, wobble / 2)
        found["nll_loss"] += truth.held_out(done)
        found["loss"] += truth.held_out(done)
        step = found.pop("step")
        lines.append({"step": step} | {f"eval_{name}": value for name, value in found.items()})
    return lines


def seen(truth: Truth, logged: Logged, seed: int) -> Observed:
    """What the rules look at."""
    draw = random.Random(f"answers {seed}")
    lengths = []
    for _ in range(logged.answers):
        before = max(1, round(draw.lognormvariate(4, 0.6)))
        after = max(1, round(before * truth.growth * draw.lognormvariate(0, 0.5)))
        lengths.append((before, after, before))
    curves = read_curves(lines_of(truth, logged, seed))
    return Observed(curves, "orpo", truth.alpha, 1e-5, lengths=lengths)


def _line(step: int, truth: Truth, done: float, shared: float, other: float) -> dict[str, Any]:
    chosen, rejected = truth.chosen(done) + shared, truth.rejected(done) + shared + other
    z = 1.3 * (chosen - rejected)
    ratio = -math.log1p(math.exp(-z))
    nll = -chosen
    return {
        "step": step,
        "loss": nll - truth.alpha * ratio,
        "nll_loss": nll,
        "log_odds_ratio": ratio,
        "log_odds_chosen": z,
        "logps/chosen": chosen,
        "logps/rejected": rejected,
        "rewards/accuracies": 1 / (1 + math.exp(-1.2 * z)),
    }
