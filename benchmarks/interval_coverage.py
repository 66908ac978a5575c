"""How often the 95 % intervals of `orpo.evaluate.intervals` contain the truth.

    python benchmarks/interval_coverage.py [--evaluations 1000] [--seed 0]

Each case draws that many evaluations from a law whose mean is known, and counts the intervals
that contain it. With 1,000 evaluations the count itself is sure to about 1.4 points.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from orpo.evaluate.intervals import Interval, mean_interval, paired_interval

Random = np.random.Generator
Evaluation = Callable[[Random], Interval]


@dataclass(frozen=True)
class Case:
    """A law to draw evaluations from.

    Attributes:
        name: What it stands for.
        truth: The mean that intervals should contain.
        evaluate: Draws one evaluation and finds its interval.
    """

    name: str
    truth: float
    evaluate: Evaluation

    def coverage(self, evaluations: int, seed: int) -> float:
        """Share of evaluations whose interval contains the truth."""
        random = np.random.default_rng(seed)
        found = (self.evaluate(random) for _ in range(evaluations))
        return sum(i.low <= self.truth <= i.high for i in found) / evaluations


def cases() -> list[Case]:
    """Every case that must hold."""
    shares = [share(p, n) for p in (0.5, 0.7, 0.9, 0.97) for n in (50, 100, 200, 400)]
    alike = [
        share_of_alike(p, n, 4, strength)
        for p in (0.5, 0.7, 0.9, 0.97)
        for n in (50, 200)
        for strength in (0.1, 0.5)
    ]
    means = [skewed(n, size) for n in (50, 100, 400) for size in (1, 3)]
    pairs = [
        *(
            change_of_share(a, b, n)
            for a, b in ((0.5, 0.5), (0.7, 0.8), (0.9, 0.97))
            for n in (50, 200, 400)
        ),
        *(change_of_share(0.7, 0.8, n, size=4) for n in (50, 200)),
        *(change_of_mean(n) for n in (50, 200)),
    ]
    return [*shares, *alike, ties(0.7, 0.3, 50), ties(0.55, 0.8, 200), *means, *pairs]


def share(p: float, prompts: int) -> Case:
    """One pair for each prompt."""
    return Case(
        f"share {p}, {prompts} prompts",
        p,
        lambda random: mean_interval((random.random(prompts) < p).astype(float)),
    )


def share_of_alike(p: float, prompts: int, size: int, alike: float) -> Case:
    """One to `2 * size - 1` pairs for each prompt, correlated by `alike` (beta-binomial)."""
    total = 1 / alike - 1

    def evaluate(random: Random) -> Interval:
        sizes = random.integers(1, 2 * size, prompts)
        chance = random.beta(p * total, (1 - p) * total, prompts)
        names = np.repeat(np.arange(prompts), sizes)
        right = random.random(len(names)) < chance[names]
        return mean_interval(right.astype(float), names.tolist())

    return Case(f"share {p}, {prompts} prompts of 1-{2 * size - 1}, alike {alike}", p, evaluate)


def ties(p: float, tied: float, prompts: int) -> Case:
    """A share in which ties count half."""

    def evaluate(random: Random) -> Interval:
        won = (random.random(prompts) < (p - tied / 2) / (1 - tied)).astype(float)
        return mean_interval(np.where(random.random(prompts) < tied, 0.5, won))

    return Case(f"share {p} with {tied} ties, {prompts} prompts", p, evaluate)


def _log_odds(random: Random, count: int) -> np.ndarray:
    """Skewed to the right like the log odds of a trained model (gamma, skewness 1.4)."""
    return random.gamma(2.0, 1.0, count) - 1.0


def skewed(prompts: int, size: int) -> Case:
    """A skewed mean, each prompt with `size` pairs of which half the variance is the prompt's."""

    def evaluate(random: Random) -> Interval:
        names = np.repeat(np.arange(prompts), size)
        values = _log_odds(random, prompts)[names]
        if size > 1:
            values = (values + _log_odds(random, len(names))) / 2
        return mean_interval(values, names.tolist(), draws=1000)

    return Case(f"skewed mean, {prompts} prompts of {size}", 1.0, evaluate)


def change_of_share(before: float, after: float, prompts: int, size: int = 1) -> Case:
    """The same pairs scored twice: half of them would fall the same way whoever looks."""

    def evaluate(random: Random) -> Interval:
        names = np.repeat(np.arange(prompts), size)
        shared = random.random(prompts)[names]
        kept = random.random(len(names)) < 0.5
        first = np.where(kept, shared, random.random(len(names))) < before
        second = np.where(kept, shared, random.random(len(names))) < after
        return paired_interval(first.astype(float), second.astype(float), names.tolist())

    name = f"change of share {before} to {after}, {prompts} prompts of {size}"
    return Case(name, after - before, evaluate)


def change_of_mean(prompts: int) -> Case:
    """A skewed change of a skewed mean."""

    def evaluate(random: Random) -> Interval:
        before = random.normal(size=prompts)
        after = before + 0.5 * _log_odds(random, prompts)
        return paired_interval(before, after, draws=1000)

    return Case(f"change of mean, {prompts} prompts", 0.5, evaluate)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for case in cases():
        covered = case.coverage(given.evaluations, given.seed)
        mark = "" if 0.93 <= covered <= 0.97 else "   <- outside of 93-97 %"
        print(f"{100 * covered:5.1f} %  {case.name}{mark}", flush=True)


if __name__ == "__main__":
    main()
