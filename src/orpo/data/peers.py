"""Rows of other tools under our columns, so that each is read by the format that it is.

    chosen_response, rejected_response      and the like: chosen_X and rejected_X, X_chosen and
                                            X_rejected, X and rejected_X, preferred_X and
                                            non_preferred_X, for an answer X (see `_ANSWER`)
    response_j, response_k                  the better and the worse answer
    query, response, rejected_response      turns of a conversation, with history
    chosen_conversations, ...               chosen_messages, rejected_messages
    {"messages": [...], "tools": [...]}     an object that holds a conversation, at any place

Messages that are written into a text become messages, see `orpo.data.spelled`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orpo.data.columns import PROMPTS, TEXT_PROMPTS, UndecidedError
from orpo.data.fields import assistant, past_turns, user
from orpo.data.media import is_empty
from orpo.data.ranked import ANSWERS
from orpo.data.spelled import MISSPELT, literal, unspelled
from orpo.data.types import Row
from orpo.errors import DataError

__all__ = ["under_our_columns"]

_ANSWER = "response|answer|output|completion|continuation|reply|generation|text|message"
_CHOSEN = "chosen|preferred|accepted|better"
_REJECTED = "rejected|non_?preferred|dispreferred|unpreferred|worse"
_TOLD = re.compile(
    rf"(?:(?P<chosen>{_CHOSEN})|{_REJECTED})_(?P<said>{_ANSWER})"
    rf"|(?P<spoken>{_ANSWER})_(?:(?P<better>{_CHOSEN})|(?:{_REJECTED}))"
)
_WHOLE = re.compile(r"(chosen|rejected)_conversations?")
_TURNS = ("query", "response")
_SINGLE = (_TURNS, ("prefix", "continuation"))  # a prompt and its answer, without a worse one
_MESSAGES = ("messages", "conversations")

_READ = (
    *PROMPTS,
    *("chosen", "rejected", "completion", "output", "rejected_response"),
    *("chosen_messages", "rejected_messages", *ANSWERS),
)


def under_our_columns(row: Row) -> Row:
    """The row as our formats read it: the same where it is in one of them.

    Raises:
        UndecidedError: The answers may be in several columns.
        DataError: Messages in a text cannot be read; names file, line and field.
    """
    values, turns = _renamed(row.values, row.where)
    for name in values.keys() & {*_READ, "history"}:
        values[name] = _read(name, values[name], row.where)
    _unwrap(values, row.where)
    _join_history(values, replace(row, values=values), spoken=turns)
    return replace(row, values=values)


def _renamed(values: Mapping[str, Any], where: str) -> tuple[dict[str, Any], bool]:
    """The values under our names for answers, and whether they are turns of a conversation."""
    renamed = {}
    for name in values:
        whole = _WHOLE.fullmatch(name)
        if whole and f"{whole[1]}_messages" not in values:
            renamed[name] = f"{whole[1]}_messages"
    found = [] if {"chosen", "rejected"} & values.keys() else _answers(values)
    if len(found) > 1:
        listed = " or ".join(f"{chosen!r} and {rejected!r}" for chosen, rejected in found)
        raise UndecidedError(
            f"the answers may be {listed}", where=where, fix="Leave the others out."
        )
    for chosen, rejected in found:
        renamed |= {chosen: "chosen", rejected: "rejected"}
    turns = [name for pair in found for name in pair if name in values][:1] == ["response"]
    return {renamed.get(n, n): v for n, v in values.items()}, turns and "query" in values


def _answers(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The columns of the chosen and the rejected answer, one pair for each way to read them."""
    told: dict[str, dict[bool, str]] = {}
    for name in values:
        if match := _TOLD.fullmatch(name):
            better = bool(match["chosen"] or match["better"])
            told.setdefault(match["said"] or match["spoken"], {})[better] = name
    for said, names in told.items():
        if said in values and True not in names:
            names[True] = said
    known = [names for names in told.values() if True in names]
    found = [(names[True], names.get(False, "rejected")) for names in known]
    whole = [pair for pair in found if pair[1] in values] or found
    if {"response_j", "response_k"} <= values.keys():
        whole.append(("response_j", "response_k"))
    if whole or "label" in values:  # which may say that a single answer is the unwanted one
        return whole
    return [(said, "rejected") for asked, said in _SINGLE if {asked, said} <= values.keys()]


def _read(name: str, value: Any, where: str) -> Any:
    """A value with its messages as messages, however they are written."""
    if type(value).__name__ == "ndarray":
        value = value.tolist()
    if isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value):
        return [_read(name, part, where) for part in value]
    if not isinstance(value, str):
        return value
    if name == "history":
        turns = literal(value) if value.lstrip()[:1] == "[" else None
        return value if turns is None else turns
    found = unspelled(value)
    if found is MISSPELT:
        raise DataError(
            "holds messages as a text that is neither JSON nor Python",
            where=f"{where}, field '{name}'",
            fix="Write them as JSON: a list of {'role', 'content'} objects.",
        )
    return found


def _unwrap(values: dict[str, Any], where: str) -> None:
    """Take the conversation, the tools and the system prompt out of objects that hold them."""
    for name in _READ:
        held = values.get(name)
        if not isinstance(held, Mapping):
            continue
        inner = next((part for part in _MESSAGES if isinstance(held.get(part), list)), "")
        if not inner:
            continue
        values[name] = held[inner]
        for extra in ("tools", "system"):
            if is_empty(held.get(extra)):
                continue
            if not is_empty(values.get(extra)) and values[extra] != held[extra]:
                raise DataError(
                    f"has another {extra!r} than the rest of the row",
                    where=f"{where}, field '{name}'",
                    fix="Both answers are given under the same conditions.",
                )
            values[extra] = held[extra]


def _join_history(values: dict[str, Any], row: Row, *, spoken: bool) -> None:
    """Put the turns before into the prompt; an instruction's are put there by its format."""
    name = next((name for name in TEXT_PROMPTS if name in values), "")
    if not name or "instruction" in values:
        return
    before = past_turns(row, "history")
    prompt = values[name]
    if before and not isinstance(prompt, str):
        raise DataError(
            "is there beside a conversation",
            where=f"{row.where}, field 'history'",
            fix=f"Put the turns into {name!r}.",
        )
    if before or (spoken and isinstance(prompt, str)):
        turns = [message for asked, said in before for message in (user(asked), assistant(said))]
        values[name] = [*turns, user(prompt)]
