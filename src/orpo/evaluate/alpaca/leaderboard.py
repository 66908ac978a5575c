"""The published leaderboard, and who stands near a result."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orpo.errors import DataError

__all__ = ["Entry", "neighbours", "read_leaderboard"]


@dataclass(frozen=True)
class Entry:
    """A published result.

    Attributes:
        name: The model's.
        lc_win_rate: Length-controlled win rate in percent.
        win_rate: In percent.
        avg_length: Mean length of its answers in characters.
    """

    name: str
    lc_win_rate: float
    win_rate: float
    avg_length: float


def read_leaderboard(path: Path) -> tuple[Entry, ...]:
    """Published results, the best length-controlled win rate first.

    Args:
        path: CSV; names in the first column, and the columns of the official leaderboard.

    Raises:
        DataError: It is no such file.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        entries = [
            Entry(
                next(iter(row.values())),
                float(row["length_controlled_winrate"]),
                float(row["win_rate"]),
                float(row["avg_length"]),
            )
            for row in rows
            if row["length_controlled_winrate"]
        ]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError) as error:
        fix = "Give the official weighted_alpaca_eval_gpt4_turbo leaderboard as leaderboard.csv."
        raise DataError(f"is no leaderboard ({error})", where=str(path), fix=fix) from error
    return tuple(sorted(entries, key=lambda entry: -entry.lc_win_rate))


def neighbours(entries: Sequence[Entry], lc_win_rate: float, count: int = 5) -> list[Entry]:
    """The published results just above and just below a value, best first.

    Args:
        entries: Best first.
        lc_win_rate: The value, in percent.
        count: How many on each side, where there are as many.
    """
    place = sum(entry.lc_win_rate > lc_win_rate for entry in entries)
    return list(entries[max(0, place - count) : place + count])
