"""How sure a model is of its preference, and how often it is right when it is that sure.

The odds ratio implies a probability that the chosen answer is preferred, p = sigmoid(z) (eq. 7 of
arXiv 2403.07691 takes its logarithm). As the data always prefer the chosen answer, pairs are
looked at from the model's side: it prefers one answer with confidence max(p, 1 - p), and is right
if that is the chosen one. The expected calibration error is the mean over bins of |confidence -
share right|, weighted by pairs (Naeini et al. 2015; Guo et al., arXiv 1706.04599); it is above 0
by chance alone, so what chance gives stands beside it (consistency resampling, Broecker and Smith
2007). The Brier score is the mean of (1 - p)^2: 0 is perfect, 0.25 is a coin toss.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orpo.evaluate.intervals import mean_interval
from orpo.evaluate.preference.pairs import ScoredPairs

__all__ = ["calibration"]

Floats: TypeAlias = NDArray[np.float64]

_BINS = 10
_DRAWS = 1000


def calibration(pairs: ScoredPairs) -> dict[str, Any]:
    """Reliability of the implied preference probabilities.

    Args:
        pairs: At least one.

    Returns:
        confidence (mean), right (mean), ece, ece_by_chance (what 95 % of evaluations of a
        perfectly calibrated model stay below), brier, words, and bins: for each that holds
        pairs its borders low and high, the mean confidence, and right, an interval.
    """
    z = pairs.log_odds
    with np.errstate(over="ignore"):  # a probability of 0 is what is meant
        chosen = 1 / (1 + np.exp(-z))
    sure = np.maximum(chosen, 1 - chosen)
    right = np.where(z > 0, 1.0, np.where(z < 0, 0.0, 0.5))
    edges = np.linspace(0.5, 1.0, _BINS + 1)
    places = np.clip(np.searchsorted(edges, sure, side="right") - 1, 0, _BINS - 1)
    error = _error(sure, right[None, :], places)[0]
    found = {
        "confidence": float(sure.mean()),
        "right": float(right.mean()),
        "ece": float(error),
        "ece_by_chance": _by_chance(sure, places),
        "brier": float(((1 - chosen) ** 2).mean()),
        "bins": [
            _bin(pairs, sure, right, places == i, (edges[i], edges[i + 1]))
            for i in range(_BINS)
            if (places == i).any()
        ],
    }
    return {**found, "words": _words(found)}


def _bin(
    pairs: ScoredPairs, sure: Floats, right: Floats, inside: Any, borders: tuple[float, float]
) -> dict[str, Any]:
    prompts = [pairs.prompts[int(i)] for i in np.flatnonzero(inside)]
    return {
        "low": round(float(borders[0]), 3),
        "high": round(float(borders[1]), 3),
        "confidence": float(sure[inside].mean()),
        "right": mean_interval(right[inside].tolist(), prompts, share=True).as_dict(),
    }


def _error(sure: Floats, outcomes: Floats, places: NDArray[np.int64]) -> Floats:
    """The expected calibration error of each row of outcomes, (draws,)."""
    total = np.zeros(len(outcomes))
    for i in np.unique(places):
        inside = places == i
        total += np.abs((outcomes[:, inside] - sure[inside]).sum(axis=1))
    error: Floats = total / len(sure)
    return error


def _by_chance(sure: Floats, places: NDArray[np.int64]) -> float:
    random = np.random.default_rng(0)
    errors = [
        _error(sure, (random.random((1, len(sure))) < sure).astype(np.float64), places)[0]
        for _ in range(_DRAWS)
    ]
    return float(np.quantile(errors, 0.95))


def _words(found: dict[str, Any]) -> str:
    said = (
        f"It is {100 * found['confidence']:.0f} % sure of its preference on average, and right in "
        f"{100 * found['right']:.0f} % of the pairs"
    )
    if found["ece"] <= found["ece_by_chance"]:
        return f"{said}: as far as these pairs can tell, it is as often right as it is sure."
    way = (
        "too sure of itself"
        if found["confidence"] > found["right"]
        else "less sure than it could be"
    )
    return f"{said}: it is {way} (by {100 * found['ece']:.0f} points in the mean over the bins)."
