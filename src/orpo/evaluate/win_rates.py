"""The win rate as it is judged, and as it would be if both answers were equally long.

With d_i the difference of the two answers' lengths in characters (baseline minus model) over its
standard deviation, and g_i the difficulty of the instruction,

    logit P(the model's answer is preferred on i) = a tanh(d_i) + b g_i + c

and the length-controlled win rate is the mean of sigmoid(b g_i + c): length's term left out (arXiv
2404.04475, eqs. 3 and 4). The rows of two baselines that were told to be short or long take part
with weight 0.1 each and c = 0, so that no one gains by playing with length.

It is fitted as the leaderboard fits it: a preference is a probability, so each row stands there
twice, once for each outcome, weighted by its probability; L1 penalty, no intercept of its own; C
from 1e-4 to 1e4 by five-fold cross-validation on the log-likelihood, both copies of a row in the
same fold.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orpo.errors import ConfigError, DataError, require_package
from orpo.evaluate.intervals import Floats, Interval, mean_interval
from orpo.evaluate.results import WinRate

if TYPE_CHECKING:
    import pandas as pd

Columns: TypeAlias = "Mapping[str, Any] | pd.DataFrame"
"""Columns by name: a pandas DataFrame, or a dict of lists."""

FEATURES = ("np.tanh(std_delta_len)", "instruction_difficulty", "not_gamed_baseline.astype(float)")
"""Names of the features, as the published tables of coefficients head their columns."""
LEAST_ROWS = 30
"""With fewer preferences there is no length control: ten for each coefficient."""
OWN_STRENGTH = 100.0
"""C without difficulties: on a hundred prompts, one found by cross-validation is often so strong a
penalty that it draws the result to 50 %, and intervals miss the truth."""

_GAMED_WEIGHT = 0.1  # 0.2, shared by two baselines
_FOLDS = 5
_STRENGTHS = np.logspace(-4, 4, 10)
_SEED = 123
_LEAST = 1e-15


def win_rate(values: Iterable[float | None], clusters: Sequence[Hashable] | None = None) -> WinRate:
    """The mean preference in percent, with its standard error and interval.

    Args:
        values: 1 prefers the baseline, 2 the model, 1.5 is a draw, anything between counts as it
            stands; None or NaN is no verdict, counted and left out.
        clusters: The prompt of each; each its own if absent.

    Raises:
        DataError: A value is none of these, or there is no verdict at all.
    """
    found = _preferences(values)
    judged = ~np.isnan(found)
    kept = found[judged]
    if not len(kept):
        raise DataError(
            f"none of {len(found)} rows has a preference", fix="See what the judge answered."
        )
    groups = None if clusters is None else [c for c, j in zip(clusters, judged, strict=True) if j]
    wins, losses = int((kept > 0.5).sum()), int((kept < 0.5).sum())
    draws = len(kept) - wins - losses
    return WinRate(
        win_rate=100 * float(kept.mean()),
        standard_error=100 * _standard_error(kept),
        n=len(kept),
        n_wins=wins,
        n_losses=losses,
        n_draws=draws,
        discrete_win_rate=100 * (wins + draws / 2) / len(kept),
        unjudged=int((~judged).sum()),
        interval=in_percent(mean_interval([float(v) for v in kept], groups, share=True)),
    )


def length_controlled_win_rate(
    annotations: Columns, *, difficulty: Any = None, gamed: Columns | None = None
) -> WinRate:
    """The win rate of a model, as judged and length-controlled.

    `lc_win_rate` is None, and `note` says why, with fewer than `LEAST_ROWS` preferences.

    Args:
        annotations: Columns `preference` (1 to 2: 1 prefers the baseline, 2 the model, 1.5 is a
            draw, null no verdict), `len_output_1` (baseline) and `len_output_2` (model) in
            characters, or the texts `output_1` and `output_2`; and `index`, the number of the
            instruction; without it, rows count from 0.
        difficulty: Columns `index` and `instruction_difficulty`, index -> difficulty, or all in
            order. Without them there is no such term, and C is `OWN_STRENGTH`.
        gamed: The rows that hold the model down, columns `preference` (0 to 1), `std_delta_len`,
            `instruction_difficulty` and `not_gamed_baseline`; without it there are none.

    Raises:
        DataError: A column is missing, a preference is outside of 1 to 2, an instruction has no
            difficulty, or there is no verdict at all.
        ConfigError: scikit-learn is not installed, or `gamed` is given without `difficulty`.
    """
    if gamed is not None and difficulty is None:
        raise ConfigError("the regularisation rows need instruction difficulties", where="gamed")
    values = _column(annotations, "preference", "annotations")
    clusters = list(annotations["index"]) if "index" in annotations else [*range(len(values))]
    every = _features(annotations, clusters, difficulty)
    plain = win_rate(values, clusters)
    if plain.n < LEAST_ROWS:
        return replace(plain, note=f"length control needs {LEAST_ROWS} preferences at least")
    judged = ~np.isnan(targets := _preferences(values))
    own = _Rows(every, targets, np.ones_like(targets))[judged]
    rows = own if gamed is None else _with_gamed(own, gamed)
    strength = OWN_STRENGTH if difficulty is None else _best_strength(rows)
    coefficients = _coefficients(rows, strength, _SEED)
    names = FEATURES if difficulty is not None else FEATURES[::2]
    equal_length = np.concatenate([np.zeros_like(every[:, :1]), every[:, 1:]], axis=1)
    predicted = sigmoid(equal_length @ coefficients)
    moves = _moves(own, rows, coefficients, equal_length, predicted)
    prompts = [c for c, kept in zip(clusters, judged, strict=True) if kept]
    one_sided = (own.targets > 0.5).all() or (own.targets < 0.5).all()
    mean = float(predicted.mean())
    return replace(
        plain,
        lc_win_rate=100 * mean,
        lc_standard_error=100 * _standard_error(predicted),
        lc_interval=None if one_sided else _interval(predicted[judged] + moves, mean, prompts),
        coefficients=dict(zip(names, map(float, coefficients), strict=True)),
        strength=strength,
    )


def in_percent(share: Interval) -> Interval:
    """An interval of a share as percent, its ends within 0 and 100."""
    low, high = (min(max(100 * end, 0.0), 100.0) for end in (share.low, share.high))
    return Interval(100 * share.value, low, high, share.n, share.clusters, share.level)


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), for any x."""
    return np.asarray(np.exp(-np.logaddexp(0, -x)), dtype=np.float64)


@dataclass(frozen=True)
class _Rows:
    """What is fitted."""

    features: Floats  # (n, k)
    targets: Floats  # (n,), probabilities
    weights: Floats  # (n,)

    def __getitem__(self, which: NDArray[np.bool_]) -> _Rows:
        return _Rows(self.features[which], self.targets[which], self.weights[which])


def _features(annotations: Columns, index: Sequence[Any], difficulty: Any) -> Floats:
    """Of all rows, judged or not: length's, the instruction's, and 1."""
    delta = _lengths(annotations, 1) - _lengths(annotations, 2)
    spread = float(delta.std(ddof=1)) if len(delta) > 1 else 0.0
    parts = [np.tanh(delta / spread) if spread > 0 else np.zeros_like(delta)]
    if difficulty is not None:
        known = _difficulties(difficulty)
        missing = [i for i in index if int(i) not in known]
        if missing:
            raise DataError(
                f"{len(missing)} instructions have no difficulty, the first with index "
                f"{missing[0]}",
                where="annotations",
                fix="Give the index of each instruction in the official evaluation set.",
            )
        parts.append(np.array([known[int(i)] for i in index], dtype=np.float64))
    return np.stack([*parts, np.ones_like(delta)], axis=1)


def _lengths(annotations: Columns, which: int) -> Floats:
    """In characters, as the leaderboard counts."""
    name = f"len_output_{which}"
    if name not in annotations and f"output_{which}" in annotations:
        return np.array([len(text) for text in annotations[f"output_{which}"]], dtype=np.float64)
    return np.asarray(_column(annotations, name, "annotations"), dtype=np.float64)


def _difficulties(table: Any) -> dict[int, float]:
    """Index -> difficulty, from whatever `length_controlled_win_rate` takes."""
    if not hasattr(table, "items"):
        return {index: float(value) for index, value in enumerate(table)}
    pairs = list(table.items())
    if FEATURES[1] in table:
        values = list(table[FEATURES[1]])
        index = table.get("index", getattr(table, "index", range(len(values))))
        pairs = list(zip(index, values, strict=True))
    # The first counts: a table of two models names each one twice.
    return {int(key): float(value) for key, value in reversed(pairs)}


def _with_gamed(own: _Rows, gamed: Columns) -> _Rows:
    """The regularisation rows, and then a model's own."""

    def get(name: str) -> list[Any]:
        return _column(gamed, name, "regularisation rows")

    real = np.array([str(v).lower() in ("true", "1", "1.0") for v in get("not_gamed_baseline")])
    delta, hard, targets = (
        np.asarray(get(name), dtype=np.float64)
        for name in ("std_delta_len", FEATURES[1], "preference")
    )
    features = np.stack([np.tanh(delta), hard, real.astype(np.float64)], axis=1)
    held = (features, targets, np.where(real, 1.0, _GAMED_WEIGHT))
    return _Rows(*map(np.concatenate, zip(held, vars(own).values(), strict=True)))


def _preferences(values: Iterable[float | None]) -> Floats:
    """From 0 (baseline) to 1 (model), of preferences from 1 to 2; 0 in old files is a draw."""
    found = np.asarray([np.nan if v is None else v for v in values], dtype=np.float64)
    found = np.where(found == 0, 1.5, found)
    wrong = np.flatnonzero(~(np.isnan(found) | ((found >= 1) & (found <= 2))))
    if len(wrong):
        raise DataError(
            f"the preference {found[wrong[0]]:g} is not between 1 and 2",
            where=f"row {wrong[0]}",
            fix="1 prefers the baseline, 2 the model, 1.5 is a draw, null is no verdict.",
        )
    return found - 1


def _column(table: Columns, name: str, what: str) -> list[Any]:
    if name not in table:
        raise DataError(f"no column {name!r}", where=what, fix=f"There are: {', '.join(table)}.")
    return list(table[name])


def _standard_error(values: Floats) -> float:
    """Of the mean; 0 for a single value."""
    return float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0


def _moves(
    own: _Rows, rows: _Rows, coefficients: Floats, equal_length: Floats, predicted: Floats
) -> Floats:
    """How each judged prompt moves the mean of the predictions through the coefficients.

    One Newton step: inverse Hessian times score.
    """
    p = sigmoid(rows.features @ coefficients)
    hessian = (rows.features * (rows.weights * p * (1 - p))[:, None]).T @ rows.features
    score = own.features * (own.targets - sigmoid(own.features @ coefficients))[:, None]
    gradient = ((predicted * (1 - predicted))[:, None] * equal_length).mean(axis=0)
    moves: Floats = score @ (np.linalg.pinv(hessian) @ gradient) * len(own.targets)
    return moves


def _interval(moves: Floats, mean: float, prompts: Sequence[Hashable]) -> Interval:
    """By prompt, from each prompt's influence on the result.

    A prompt moves the mean of the predictions by its own prediction and through the coefficients,
    so the result is, to first order, the mean of independent contributions, and its interval is
    that of a mean; of its log-odds, so that the ends stay within 0 and 100 %.
    """
    values = math.log(mean / (1 - mean)) + (moves - moves.mean()) / (mean * (1 - mean))
    log_odds = mean_interval([float(v) for v in values], prompts, share=False)
    low, high = sigmoid(np.array([log_odds.low, log_odds.high]))
    return in_percent(replace(log_odds, value=mean, low=float(low), high=float(high)))


def _best_strength(rows: _Rows) -> float:
    """The C that predicts left-out rows best."""
    fold = _folds(len(rows.targets))
    scores = np.array([_path_scores(rows[fold != k], rows[fold == k]) for k in range(_FOLDS)])
    return float(_STRENGTHS[int(scores.mean(axis=0).argmax())])


def _path_scores(train: _Rows, test: _Rows) -> list[float]:
    """The mean log-likelihood of the left-out rows at each strength."""
    chance = np.random.RandomState(_SEED)  # one for the whole path, as in LogisticRegressionCV
    scores = []
    for strength in _STRENGTHS:
        found = sigmoid(test.features @ _coefficients(train, strength, chance))
        p = np.clip(found, _LEAST, 1 - _LEAST)
        fit = test.targets * np.log(p) + (1 - test.targets) * np.log(1 - p)
        scores.append(float((test.weights * fit).mean()))
    return scores


def _coefficients(rows: _Rows, strength: float, seed: Any) -> Floats:
    require_package("sklearn", where="length control")
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - an extra

    model = LogisticRegression(
        C=strength, l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=seed
    )
    with warnings.catch_warnings():  # a weak penalty may take more than the recipe's 100 rounds
        warnings.simplefilter("ignore")
        model.fit(
            np.concatenate([rows.features, rows.features]),
            np.repeat([1, 0], len(rows.targets)),
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
    fold[order[::-1]] = np.arange(count) % _FOLDS
    return fold
