"""The logistic model behind the length-controlled win rate, fitted as the leaderboard fits it.

Dubois, Galambosi, Liang and Hashimoto, "Length-Controlled AlpacaEval" (arXiv 2404.04475): a
preference is a probability, so each row stands there twice, once for each outcome, weighted by
its probability; L1 penalty, no intercept of its own; C from 1e-4 to 1e4 by five-fold
cross-validation on the log-likelihood, both copies of a row in the same fold.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orpo.errors import ConfigError

Floats: TypeAlias = NDArray[np.float64]

FOLDS = 5
_STRENGTHS = np.logspace(-4, 4, 10)
_SEED = 123
_LEAST = 1e-15


@dataclass(frozen=True)
class Rows:
    """What is fitted."""

    features: Floats  # (n, k)
    targets: Floats  # (n,), probabilities
    weights: Floats  # (n,)

    def __getitem__(self, which: NDArray[np.bool_]) -> Rows:
        """Some of the rows."""
        return Rows(self.features[which], self.targets[which], self.weights[which])


@dataclass(frozen=True)
class Fit:
    """What was found."""

    coefficients: Floats  # (k,)
    strength: float  # C, the inverse of the penalty's


def fit_logistic(rows: Rows, strength: float | None = None) -> Fit:
    """The fitted coefficients; C, if absent, is the one that predicts left-out rows best."""
    if strength is not None:
        return Fit(_coefficients(rows, strength, _SEED), strength)
    fold = _folds(len(rows.targets))
    scores = np.array([_path_scores(rows[fold != k], rows[fold == k]) for k in range(FOLDS)])
    strength = float(_STRENGTHS[int(scores.mean(axis=0).argmax())])
    return Fit(_coefficients(rows, strength, _SEED), strength)


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), for any x."""
    return np.asarray(np.exp(-np.logaddexp(0, -x)), dtype=np.float64)


def _path_scores(train: Rows, test: Rows) -> list[float]:
    """The mean log-likelihood of the left-out rows at each strength."""
    chance = np.random.RandomState(_SEED)  # one for the whole path, as in LogisticRegressionCV
    scores = []
    for strength in _STRENGTHS:
        found = sigmoid(test.features @ _coefficients(train, strength, chance))
        p = np.clip(found, _LEAST, 1 - _LEAST)
        fit = test.targets * np.log(p) + (1 - test.targets) * np.log(1 - p)
        scores.append(float((test.weights * fit).mean()))
    return scores


def _coefficients(rows: Rows, strength: float, seed: Any) -> Floats:
    try:
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - an extra
    except ImportError as error:
        what, fix = "length control needs scikit-learn", "pip install 'orpo[evaluate]'"
        raise ConfigError(what, fix=fix) from error
    model = LogisticRegression(
        C=strength, l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=seed
    )
    count = len(rows.targets)
    with warnings.catch_warnings():  # a weak penalty may take more than the recipe's 100 rounds
        warnings.simplefilter("ignore")
        model.fit(
            np.concatenate([rows.features, rows.features]),
            np.repeat([1, 0], count),
            sample_weight=np.concatenate([rows.targets, 1 - rows.targets])
            * np.concatenate([rows.weights, rows.weights]),
        )
    return np.asarray(model.coef_[0], dtype=np.float64)


def _folds(count: int) -> NDArray[np.int64]:
    """The fold of each row, as scikit-learn's `GroupKFold` dealt them for the leaderboard.

    All groups are equally large, so their order is what an unstable sort makes of equal keys.
    The sort is stable by now (scikit-learn pull request 28464), and another C wins for half of
    the published models. numpy's plain quicksort, which sorted at the time, still sorts objects.
    """
    order = np.argsort(np.zeros(count, dtype=object), kind="quicksort")
    fold = np.empty(count, dtype=np.int64)
    fold[order[::-1]] = np.arange(count) % FOLDS
    return fold
