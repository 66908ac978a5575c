"""What a win rate is, and the tables that it is made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orpo.errors import DataError
from orpo.evaluate.intervals import Interval

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Columns", "Floats", "WinRate", "column", "difficulties", "preferences"]

Floats: TypeAlias = NDArray[np.float64]
Columns: TypeAlias = "Mapping[str, Any] | pd.DataFrame"
"""Columns by name: a pandas DataFrame, or a dict of lists."""

DIFFICULTY = "instruction_difficulty"


@dataclass(frozen=True)
class WinRate:
    """How often a model's answers are preferred to a baseline's, in percent.

    Attributes:
        win_rate: Mean preference.
        standard_error: Of the win rate, over instructions.
        n: Instructions with a preference.
        n_wins: Of them, those where the model's answer is preferred.
        n_losses: Where the baseline's is.
        n_draws: Where neither is.
        discrete_win_rate: Wins and half of the draws, whatever their margin.
        unjudged: Instructions without a preference; they count in no win rate.
        interval: The win rate's, by prompt.
        lc_win_rate: As if both answers were equally long; None where `note` says why.
        lc_standard_error: As the leaderboard prints it: the spread of the predictions over
            instructions. How sure the fit is, it does not say; `lc_interval` does.
        lc_interval: The length-controlled win rate's, by prompt; None where every preference
            points the same way, which says nothing of how much length matters.
        coefficients: Of the length-controlled model, by the names of its features.
        strength: C, the inverse strength of its L1 penalty, found by cross-validation.
        note: Why something is missing, or nothing.
    """

    win_rate: float
    standard_error: float
    n: int
    n_wins: int
    n_losses: int
    n_draws: int
    discrete_win_rate: float
    unjudged: int
    interval: Interval
    lc_win_rate: float | None = None
    lc_standard_error: float | None = None
    lc_interval: Interval | None = None
    coefficients: Mapping[str, float] | None = None
    strength: float | None = None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        shown = dict(vars(self))
        shown["interval"] = self.interval.as_dict()
        shown["lc_interval"] = self.lc_interval and self.lc_interval.as_dict()
        shown["coefficients"] = self.coefficients and dict(self.coefficients)
        return shown


def preferences(values: Iterable[float | None]) -> Floats:
    """Preferences between 0 (baseline) and 1 (model) from those between 1 and 2.

    Args:
        values: 1 prefers the baseline, 2 the model, anything between is how sure the judge is;
            1.5, and 0 in old files, is a draw; None or NaN is no verdict.

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
    """A column by its name.

    Raises:
        DataError: There is none.
    """
    if name not in table:
        raise DataError(f"no column {name!r}", where=what, fix=f"There are: {', '.join(table)}.")
    return list(table[name])


def difficulties(table: Any) -> dict[int, float]:
    """The difficulty of each instruction by its index.

    Args:
        table: Columns `index` and `instruction_difficulty` (without `index`, the rows' own), or
            index -> difficulty (a dict or a pandas Series), or the difficulties in order.
    """
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
