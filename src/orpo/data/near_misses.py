"""Columns whose names are nearly ours: "reject", "Chosen", " rejected", "promt"."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from orpo.data.media import is_empty
from orpo.errors import DataError

__all__ = ["near_misses", "refuse_near_misses", "renaming"]

_TEXTS = ("prompt", "chosen", "rejected", "instruction", "messages", "conversations")
_EXTRAS = ("system", "tools", "weight", "history")
# With another column for the answer than these, it is not clear which two belong together.
_OTHER_ANSWER = re.compile(
    r"(?P<name>chosen|rejected)_(response|answer|output|completion|continuation|reply|text)s?"
)
_GAPS = re.compile(r"[\s\-]+")
_ALIKE = 0.8  # "rejects" and "rejected"; "question" and "instruction" are less so


def near_misses(columns: Mapping[str, Any]) -> dict[str, str]:
    """Column -> the one of ours that is meant by it, where the row does not have that."""
    meant = ((name, _meant_by(name)) for name in columns)
    return {name: ours for name, ours in meant if ours and is_empty(columns.get(ours))}


@lru_cache(1024)
def _meant_by(name: str) -> str:
    """The column of ours that a name is nearly; empty if it is one of ours or nearly none."""
    plain = _GAPS.sub("_", name.strip()).casefold()
    other = _OTHER_ANSWER.fullmatch(plain)
    close = difflib.get_close_matches(plain, _TEXTS, n=1, cutoff=_ALIKE)
    meant = plain if plain in _EXTRAS else other["name"] if other else next(iter(close), "")
    return "" if meant == name else meant


def renaming(columns: Mapping[str, Any]) -> str:
    """What to rename, in words; empty if no column is nearly one of ours."""
    names = (f"{name!r} to {meant!r}" for name, meant in near_misses(columns).items())
    listed = " and ".join(names)
    return f"Rename {listed}." if listed else ""


def refuse_near_misses(columns: Mapping[str, Any], where: str, *, has_rejected: bool) -> None:
    """Refuse a row that would lose an answer or a setting because a name is nearly ours.

    Raises:
        DataError: Names the column and the one that is meant.
    """
    for name, meant in near_misses(columns).items():
        lost = not has_rejected if meant == "rejected" else meant in _EXTRAS
        if lost and not is_empty(columns[name]):
            raise DataError(
                f"column {name!r} is not read: {meant!r} is",
                where=f"{where}, field {name!r}",
                fix=f"Rename {name!r} to {meant!r}, or leave it out.",
            )
