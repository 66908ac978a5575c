"""Which format a data set is in: the columns of a row say it, or the row is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from orpo.data.fields import as_messages
from orpo.data.near_misses import renaming
from orpo.data.ranked import has_answers
from orpo.data.transcripts import ASSISTANT
from orpo.errors import DataError

__all__ = [
    "PROMPTS",
    "SCORES",
    "TEXT_PROMPTS",
    "UndecidedError",
    "prompt_column",
    "recognise",
    "refuse_guess",
    "refuse_unpaired",
]

Columns: TypeAlias = Mapping[str, Any]
_Known: TypeAlias = dict[str, tuple[tuple[str, ...], ...]]

TEXT_PROMPTS = ("prompt", "question", "query", "input", "prefix")
"""Columns that the format "prompt" may have its prompt in, the first one that is there."""

_COLUMNS: _Known = {
    "prompt": tuple((p, "chosen", "rejected") for p in TEXT_PROMPTS),
    "alpaca": (("instruction", "chosen", "rejected"),),
    "sharegpt": (("conversations", "chosen", "rejected"),),
    "messages": (
        ("messages", "rejected_response"),
        ("messages", "rejected_messages"),
        ("messages", "chosen", "rejected"),
    ),
    "two_messages": (("chosen_messages", "rejected_messages"),),
}
"""Format -> the columns that make it out, in any of these sets."""

_NLL_COLUMNS: _Known = {
    "prompt": (
        *((p, "chosen") for p in TEXT_PROMPTS),
        ("prompt", "completion"),
    ),
    "alpaca": (("instruction", "chosen"), ("instruction", "output")),
    "sharegpt": (("conversations", "chosen"), ("conversations",)),
    "messages": (("messages", "chosen"), ("messages",)),
    "two_messages": (("chosen_messages",),),
}
"""The same for rows without a rejected answer."""

_SURE_PROMPTS = ("prompt", "question", "instruction", "messages", "conversations")
_LOOSE_PROMPTS = ("query", "input", "prefix")  # only where nothing else is the prompt
PROMPTS = (*_SURE_PROMPTS, *_LOOSE_PROMPTS, "context", "contents")
"""Columns that a list of answers may have its prompt in, the first one that is there."""

SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"),
    ("chosen_reward", "rejected_reward"),
)
"""Columns with the scores of both answers, in any of these pairs."""

_BESIDE_MESSAGES = ("prompt", "question", "instruction", "conversations")
_REJECTED = ("rejected", "rejected_response", "rejected_messages")
_ANSWERS = ("chosen", "rejected")
_EXTRAS = {*_ANSWERS, "system", "tools", "weight", "split"}.union(*SCORES)
# Columns whose names say that no prompt stands in them.
_ABOUT = re.compile(
    r"(.+_)?(id|idx|index|uid|uuid|hash|source|dataset|category|subset|topic|domain|split|url|uri"
    r"|date|time|timestamp|created_at|type|license|version|tags?|model|score|rating|rank|label)"
    r"|(lang|model|score|annot|meta|source).*",
    re.IGNORECASE,
)
_FLAGS = {"true", "false", "0", "1", "-1"}


class UndecidedError(DataError):
    """Columns that leave open how all the rows are to be read, or that are no preferences."""


def recognise(columns: Columns, where: str) -> str:
    """The name of the format that these columns (of a first row, with its values) are in.

    Raises:
        UndecidedError: Several formats have these columns, or the prompt could only be guessed,
            or they are feedback on single answers; the message names them.
        DataError: No format has them.
    """
    found = _candidates(columns)
    if len(found) != 1:
        raise _unrecognised(columns, found, where)
    if found == ["implicit"]:
        refuse_guess(columns, where)
    if found != ["answers"]:
        refuse_unpaired(columns, where, UndecidedError)
    return found[0]


def prompt_column(columns: Columns) -> str:
    """The column that the format "prompt" has its prompt in."""
    names = (name for name in TEXT_PROMPTS if name != "input" or "instruction" not in columns)
    return next((name for name in names if name in columns), "prompt")


def refuse_guess(columns: Columns, where: str) -> None:
    """Refuse to take what two texts share for the prompt where it may be in a column of its own.

    Raises:
        UndecidedError: Text stands in a column that is not known.
    """
    if not any(isinstance(columns.get(name), str) for name in _ANSWERS):
        return
    unknown = sorted(name for name, value in columns.items() if _may_be_prompt(name, value))
    if unknown:
        listed = ", ".join(map(repr, unknown[:6]))
        raise UndecidedError(
            f"the prompt may be in {listed}, or be what 'chosen' and 'rejected' begin with",
            where=f"{where}, field {unknown[0]!r}",
            fix="Name the prompt's column 'prompt', or say data_format=implicit.",
        )


def refuse_unpaired(columns: Columns, where: str, error: type[DataError] = DataError) -> None:
    """Refuse a single answer that was marked as wanted or not: it may be the unwanted one.

    Raises:
        DataError: There is a label and no rejected answer.
    """
    label = columns.get("label")
    if any(columns.get(name) is not None for name in _REJECTED) or label is None:
        return
    number = isinstance(label, int | float) or str(label).strip().lower() in _FLAGS
    if isinstance(label, bool) or (number and columns.get("completion") is not None):
        raise error(
            "unpaired feedback (column 'label') is not preference pairs",
            where=f"{where}, field 'label'",
            fix="Pair a wanted with an unwanted completion of the same prompt.",
        )


def _candidates(columns: Columns) -> list[str]:
    """Every format that the columns may be in."""
    names = _telling(columns)
    prompted = not names.isdisjoint(PROMPTS)
    if "chosen" in names and not names.isdisjoint(_BESIDE_MESSAGES):
        names.discard("messages")  # UltraFeedback has its chosen conversation there as well
    return (
        _matching(names, _COLUMNS)
        or [_by_answers(columns)] * names.issuperset(_ANSWERS)
        or ["answers"] * (prompted and has_answers(columns))
        or _matching(names, _NLL_COLUMNS)
        or ["answers"] * (prompted and has_answers(columns, empty=True))
        or [_by_answers(columns)] * ("chosen" in names)
    )


def _telling(columns: Columns) -> set[str]:
    """The columns' names, without those that are not the prompt, though they may be elsewhere."""
    names = set(columns)
    if "chosen" in names and not columns.get("messages"):
        names.discard("messages")
    answers = [columns.get(name) for name in _ANSWERS]
    whole = any(isinstance(answer, list) and len(answer) > 1 for answer in answers)
    loose = names.intersection(_LOOSE_PROMPTS)
    another = not names.isdisjoint(_SURE_PROMPTS) or len(loose) > 1
    if another or whole or _by_answers(columns) == "hh":
        return names.difference(_LOOSE_PROMPTS)
    return names


def _matching(names: set[str], known: _Known) -> list[str]:
    return [name for name, sets in known.items() if any(names.issuperset(s) for s in sets)]


def _by_answers(columns: Columns) -> str:
    texts = (columns.get(name) for name in _ANSWERS)
    return "hh" if any(isinstance(t, str) and ASSISTANT in t for t in texts) else "implicit"


def _may_be_prompt(name: str, value: Any) -> bool:
    if name in _EXTRAS or _ABOUT.fullmatch(name):
        return False
    if isinstance(value, str):
        return bool(value.strip()) and not _is_number(value)
    return bool(as_messages(value))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _unrecognised(columns: Columns, found: list[str], where: str) -> DataError:
    """The complaint about columns that several formats have, or none."""
    listed = ", ".join(map(repr, sorted(columns))) or "no columns"
    if found:
        return UndecidedError(
            f"the columns may be read as {' or '.join(found)}: {listed}",
            where=where,
            fix=f"Say which, e.g. --data_format={found[0]}, or leave columns out.",
        )
    missing = sorted(set(_ANSWERS) - set(columns))
    return DataError(
        f"no column {' and no column '.join(map(repr, missing))}; found {listed}",
        where=where,
        fix=renaming(columns)
        or "Preference data need 'chosen' and 'rejected', and usually 'prompt'.",
    )
