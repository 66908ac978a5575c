"""The win rate as it is judged, and as it would be if both answers were equally long.

With d_i the difference of the two answers' lengths in characters (baseline minus model) over its
standard deviation, and g_i the difficulty of the instruction,

    logit P(the model's answer is preferred on i) = a tanh(d_i) + b g_i + c

and the length-controlled win rate is the mean of sigmoid(b g_i + c): length's term left out (arXiv
2404.04475, eqs. 3 and 4). The rows of two baselines that were told to be short or long take part
with weight 0.1 each and c = 0, so that no one gains by playing with length.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from orpo.errors import ConfigError, DataError
from orpo.evaluate.intervals import Interval, mean_interval
from orpo.evaluate.results import WinRate
from orpo.evaluate.win_rates.fit import Fit, Floats, Rows, fit_logistic, sigmoid

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
DIFFICULTY = "instruction_difficulty"
_GAMED_WEIGHT = 0.1  # 0.2, shared by two baselines


def win_rate(values: Iterable[float | None], clusters: Sequence[Hashable] | None = None) -> WinRate:
    """The mean preference in percent, with its standard error and interval.

    Args:
        values: 1 prefers the baseline, 2 the model, 1.5 is a draw, anything between counts as it
            stands; None or NaN is no verdict, counted and left out.
        clusters: The prompt of each; each its own if absent.

    Raises:
        DataError: A value is none of these, or there is no verdict at all.
    """
    found = preferences(values)
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
        standard_error=100 * standard_error(kept),
        n=len(kept),
        n_wins=wins,
        n_losses=losses,
        n_draws=draws,
        discrete_win_rate=100 * (wins + draws / 2) / len(kept),
        unjudged=int((~judged).sum()),
        interval=in_percent(mean_interval([float(v) for v in kept], groups, share=True)),
    )


def standard_error(values: Floats) -> float:
    """Of the mean; 0 for a single value."""
    return float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0


def in_percent(share: Interval) -> Interval:
    """An interval of a share as percent, its ends within 0 and 100."""
    low, high = (min(max(100 * end, 0.0), 100.0) for end in (share.low, share.high))
    return Interval(100 * share.value, low, high, share.n, share.clusters, share.level)


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


@dataclass(frozen=True)
class _Model:
    """The design of one model's rows: all of them, judged or not."""

    features: Floats
    targets: Floats
    clusters: tuple[Any, ...]

    @property
    def equal_length(self) -> Floats:
        return np.concatenate([np.zeros_like(self.features[:, :1]), self.features[:, 1:]], axis=1)


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
    pairs = zip(vars(held).values(), vars(own).values(), strict=True)
    return Rows(*(np.concatenate(pair) for pair in pairs))


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


def preferences(values: Iterable[float | None]) -> Floats:
    """Preferences from 0 (baseline) to 1 (model) from those from 1 to 2; 0 in old files is a draw.

    Raises:
        DataError: A value is none of these; names the row.
    """
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


def column(table: Columns, name: str, what: str) -> list[Any]:
    """A column by its name, which has to be there."""
    if name not in table:
        raise DataError(f"no column {name!r}", where=what, fix=f"There are: {', '.join(table)}.")
    return list(table[name])


def difficulties(table: Any) -> dict[int, float]:
    """Index -> difficulty, from whatever `length_controlled_win_rate` takes."""
    if not hasattr(table, "items"):
        return {index: float(value) for index, value in enumerate(table)}
    if DIFFICULTY in table:
        values = list(table[DIFFICULTY])
        index = table.get("index", getattr(table, "index", range(len(values))))
        pairs = list(zip(index, values, strict=True))
    else:
        pairs = list(table.items())
    found: dict[int, float] = {}
    for key, value in pairs:  # the first counts: a table of two models names each one twice
        found.setdefault(int(key), float(value))
    return found
