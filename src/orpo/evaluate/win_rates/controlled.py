"""The length-controlled win rate: what the win rate would be if both answers were equally long.

With d_i the difference of the two answers' lengths in characters (baseline minus model) over its
standard deviation, and g_i the difficulty of the instruction,

    logit P(the model's answer is preferred on i) = a tanh(d_i) + b g_i + c

and the win rate is the mean of sigmoid(b g_i + c): length's term left out (arXiv 2404.04475, eqs.
3 and 4). The rows of two baselines that were told to be short or long take part with weight 0.1
each and c = 0, so that no one gains by playing with length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from orpo.errors import ConfigError, DataError
from orpo.evaluate.intervals import Interval, mean_interval
from orpo.evaluate.win_rates.fit import Fit, Rows, fit_logistic, sigmoid
from orpo.evaluate.win_rates.plain import in_percent, standard_error, win_rate
from orpo.evaluate.win_rates.types import (
    DIFFICULTY,
    Columns,
    Floats,
    WinRate,
    column,
    difficulties,
    preferences,
)

__all__ = ["FEATURES", "LEAST_ROWS", "length_controlled_win_rate"]

FEATURES = ("np.tanh(std_delta_len)", "instruction_difficulty", "not_gamed_baseline.astype(float)")
"""Names of the features, as the published tables of coefficients head their columns."""
LEAST_ROWS = 30
"""With fewer preferences there is no length control: ten for each coefficient."""
OWN_STRENGTH = 100.0
"""C without difficulties: on a hundred prompts, one found by cross-validation is often so strong a
penalty that it draws the result to 50 %, and intervals miss the truth."""
_GAMED_WEIGHT = 0.1  # 0.2, shared by two baselines


@dataclass(frozen=True)
class _Model:
    """The design of one model's rows: all of them, judged or not."""

    features: Floats
    targets: Floats
    clusters: tuple[Any, ...]

    @property
    def equal_length(self) -> Floats:
        return np.concatenate([np.zeros_like(self.features[:, :1]), self.features[:, 1:]], axis=1)


def length_controlled_win_rate(
    annotations: Columns, *, difficulty: Any = None, gamed: Columns | None = None
) -> WinRate:
    """The win rate of a model, as judged and length-controlled.

    Args:
        annotations: Columns `preference` (1 to 2: 1 prefers the baseline, 2 the model, 1.5 is a
            draw, null no verdict), `len_output_1` (baseline) and `len_output_2` (model) in
            characters, or the texts `output_1` and `output_2`; and `index`, the number of the
            instruction; without it, rows count from 0.
        difficulty: Columns `index` and `instruction_difficulty`, or index -> difficulty, or the
            difficulties in order. Without them the model has no such term, as for prompts of
            one's own, and C is `OWN_STRENGTH`.
        gamed: The rows that hold the model down, columns `preference` (0 to 1), `std_delta_len`,
            `instruction_difficulty` and `not_gamed_baseline`; without it there are none.

    Returns:
        `lc_win_rate` is None, and `note` says why, with fewer than `LEAST_ROWS` preferences.

    Raises:
        DataError: A column is missing, a preference is outside of 1 to 2, an instruction has no
            difficulty, or there is no verdict at all.
        ConfigError: scikit-learn is not installed, or `gamed` is given without `difficulty`.
    """
    if gamed is not None and difficulty is None:
        raise ConfigError("the regularisation rows need instruction difficulties", where="gamed")
    model = _model(annotations, None if difficulty is None else difficulties(difficulty))
    values = column(annotations, "preference", "annotations")
    plain = win_rate(values, model.clusters)
    if plain.n < LEAST_ROWS:
        return replace(plain, note=f"length control needs {LEAST_ROWS} preferences at least")
    rows = _training_rows(model, gamed)
    fit = fit_logistic(rows, OWN_STRENGTH if difficulty is None else None)
    predicted = sigmoid(model.equal_length @ fit.coefficients)
    names = FEATURES if difficulty is not None else (FEATURES[0], FEATURES[2])
    return replace(
        plain,
        lc_win_rate=100 * float(predicted.mean()),
        lc_standard_error=100 * standard_error(predicted),
        lc_interval=_interval(model, rows, fit, predicted),
        coefficients=dict(zip(names, map(float, fit.coefficients), strict=True)),
        strength=fit.strength,
    )


def _model(annotations: Columns, difficulty: dict[int, float] | None) -> _Model:
    targets = preferences(column(annotations, "preference", "annotations"))
    clusters = tuple(annotations["index"]) if "index" in annotations else (*range(len(targets)),)
    delta = _lengths(annotations, 1) - _lengths(annotations, 2)
    spread = float(delta.std(ddof=1)) if len(delta) > 1 else 0.0
    parts = [np.tanh(delta / spread) if spread > 0 else np.zeros_like(delta)]
    if difficulty is not None:
        parts.append(_looked_up(difficulty, clusters))
    return _Model(np.stack([*parts, np.ones_like(delta)], axis=1), targets, clusters)


def _lengths(annotations: Columns, which: int) -> Floats:
    """In characters, as the leaderboard counts."""
    name = f"len_output_{which}"
    if name not in annotations and f"output_{which}" in annotations:
        return np.array([len(text) for text in annotations[f"output_{which}"]], dtype=np.float64)
    return np.asarray(column(annotations, name, "annotations"), dtype=np.float64)


def _looked_up(difficulty: dict[int, float], index: tuple[Any, ...]) -> Floats:
    missing = [i for i in index if int(i) not in difficulty]
    if missing:
        raise DataError(
            f"{len(missing)} instructions have no difficulty, the first with index {missing[0]}",
            where="annotations",
            fix="Give the index of each instruction in the official evaluation set.",
        )
    return np.array([difficulty[int(i)] for i in index], dtype=np.float64)


def _training_rows(model: _Model, gamed: Columns | None) -> Rows:
    judged = ~np.isnan(model.targets)
    own = Rows(model.features, model.targets, np.ones_like(model.targets))[judged]
    if gamed is None:
        return own
    real = np.array([str(v).lower() in ("true", "1", "1.0") for v in _gamed(gamed, FEATURES[2])])
    features = [
        np.tanh(np.asarray(_gamed(gamed, "std_delta_len"), dtype=np.float64)),
        np.asarray(_gamed(gamed, DIFFICULTY), dtype=np.float64),
        real.astype(np.float64),
    ]
    held = Rows(
        np.stack(features, axis=1),
        np.asarray(_gamed(gamed, "preference"), dtype=np.float64),
        np.where(real, 1.0, _GAMED_WEIGHT),
    )
    return Rows(
        *(
            np.concatenate(pair)
            for pair in zip(
                (held.features, held.targets, held.weights),
                (own.features, own.targets, own.weights),
                strict=True,
            )
        )
    )


def _gamed(gamed: Columns, name: str) -> list[Any]:
    return column(gamed, name.partition(".")[0], "regularisation rows")


def _interval(model: _Model, rows: Rows, fit: Fit, predicted: Floats) -> Interval | None:
    """By prompt, from each prompt's influence on the result.

    A prompt moves the mean of the predictions by its own prediction and through the coefficients
    (one Newton step: inverse Hessian times score), so the result is, to first order, the mean of
    independent contributions, and its interval is that of a mean; of its log-odds, so that the
    ends stay within 0 and 100 %.
    """
    judged = ~np.isnan(model.targets)
    targets, features = model.targets[judged], model.features[judged]
    if (targets > 0.5).all() or (targets < 0.5).all():
        return None
    p = sigmoid(rows.features @ fit.coefficients)
    hessian = (rows.features * (rows.weights * p * (1 - p))[:, None]).T @ rows.features
    score = features * (targets - sigmoid(features @ fit.coefficients))[:, None]
    gradient = ((predicted * (1 - predicted))[:, None] * model.equal_length).mean(axis=0)
    through = score @ (np.linalg.pinv(hessian) @ gradient) * len(targets)
    moves = predicted[judged] + through
    mean = float(predicted.mean())
    values = math.log(mean / (1 - mean)) + (moves - moves.mean()) / (mean * (1 - mean))
    clusters = [c for c, kept in zip(model.clusters, judged, strict=True) if kept]
    log_odds = mean_interval([float(v) for v in values], clusters, share=False)
    low, high = sigmoid(np.array([log_odds.low, log_odds.high]))
    return in_percent(replace(log_odds, value=mean, low=float(low), high=float(high)))
