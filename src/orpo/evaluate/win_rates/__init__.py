"""Win rates of one model against another, as judged and with answers' length taken out."""

from orpo.evaluate.win_rates.coefficients import win_rate_from_coefficients
from orpo.evaluate.win_rates.controlled import length_controlled_win_rate
from orpo.evaluate.win_rates.judged import JudgedPair, rated, summary, suspicious
from orpo.evaluate.win_rates.plain import win_rate
from orpo.evaluate.win_rates.types import WinRate

__all__ = [
    "JudgedPair",
    "WinRate",
    "length_controlled_win_rate",
    "rated",
    "summary",
    "suspicious",
    "win_rate",
    "win_rate_from_coefficients",
]
