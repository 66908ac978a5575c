"""What stands in a column: text, messages, numbers; anything else is refused by name."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Mapping, Sequence, ValuesView
from typing import Any, TypeAlias

from orpo.data.types import Message, Row
from orpo.errors import DataError

__all__ = [
    "as_messages",
    "has_value",
    "number",
    "required",
    "text",
    "text_or_messages",
    "tools_of",
    "wrong_type",
]

Value: TypeAlias = Any  # what JSON, CSV or Parquet hold

_DEEPEST = 32  # levels of nesting in a tool call that anyone means
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CORRECT = "Correct the row, or set on_bad_row='drop' to leave such rows out."

_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "assistant",
}


def has_value(row: Row, name: str) -> bool:
    """Whether the row has this field and it is not null."""
    return row.values.get(name) is not None


def required(row: Row, name: str) -> Value:
    """The value of a field that must be there.

    Raises:
        DataError: It is missing or null.
    """
    if not has_value(row, name):
        state = "is null" if name in row.values else "is missing"
        raise DataError(
            f"field {name!r} {state}",
            where=row.where,
            fix="Give every row this field, or set on_bad_row='drop' to leave such rows out.",
        )
    return row.values[name]


def text_or_messages(row: Row, name: str) -> str | list[Message]:
    """A text, or a conversation as role/content messages, whichever way it is spelled.

    Raises:
        DataError: The field is missing or is neither.
    """
    value = required(row, name)
    _check_readable(value, row, name)
    if isinstance(value, str):
        return value
    messages = as_messages(value)
    if not messages:
        raise wrong_type(row, name, "a string or a list of {'role', 'content'} messages")
    return messages


def text(row: Row, name: str) -> str:
    """A text.

    Raises:
        DataError: The field is missing or no text.
    """
    value = required(row, name)
    if not isinstance(value, str):
        raise wrong_type(row, name, "a string")
    _check_readable(value, row, name)
    return value


def number(row: Row, name: str) -> float | None:
    """A finite number, also one written as text; None if the field is empty or not there.

    Raises:
        DataError: The field is something else.
    """
    value = row.values.get(name)
    if value is None or value == "":
        return None
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise wrong_type(row, name, "a finite number")
    return found


def tools_of(row: Row) -> list[Any] | None:
    """The descriptions of tools in the column "tools": a list of objects, or JSON text of one.

    Raises:
        DataError: The column holds something else.
    """
    value = row.values.get("tools")
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise wrong_type(row, "tools", "a list of tools, or JSON text of one") from error
    if not value and (value is None or isinstance(value, str | list)):
        return None
    value = [value] if isinstance(value, Mapping) else value
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise wrong_type(row, "tools", "a list of tools, or JSON text of one")
    _check_readable(value, row, "tools")
    return value


def as_messages(value: Value) -> list[Message]:
    """Messages out of {role, content} or ShareGPT's {from, value}, one or a list; else empty."""
    turns = [value] if isinstance(value, Mapping) else value
    if not isinstance(turns, list | tuple):
        return []
    messages = [_message(turn) for turn in turns]
    return [m for m in messages if m is not None] if all(messages) else []


def wrong_type(row: Row, name: str, expected: str) -> DataError:
    """The complaint about a field of the wrong type, with the beginning of what is there."""
    value = row.values.get(name)
    found = reprlib.repr(value)
    return DataError(
        f"expected {expected}, found {type(value).__name__} {found[:60]}{'…' * (len(found) > 60)}",
        where=f"{row.where}, field '{name}'",
        fix=_CORRECT,
    )


def _message(turn: Value) -> Message | None:
    if not isinstance(turn, Mapping):
        return None
    if isinstance(turn.get("from"), str) and "value" in turn and "role" not in turn:
        return _sharegpt_message(turn)
    if not isinstance(turn.get("role"), str):
        return None
    content = turn.get("content")
    if isinstance(content, list | tuple):
        content = _joined(content)
        return None if content is None else {**turn, "content": content}
    calls = content is None and bool(turn.get("tool_calls"))
    return turn if isinstance(content, str) or calls else None


def _sharegpt_message(turn: Mapping[str, Any]) -> Message | None:
    role, said = _SHAREGPT_ROLES.get(turn["from"].strip().lower()), turn["value"]
    if role is None or not isinstance(said, str):
        return None
    calls = _calls(said) if turn["from"] == "function_call" else None
    if calls:
        return {"role": role, "content": "", "tool_calls": calls}
    return {"role": role, "content": said}


def _calls(said: str) -> list[Any] | None:
    """The tool calls that a "function_call" turn spells as JSON; None if it does not."""
    try:
        value = json.loads(said)
    except (ValueError, RecursionError):
        return None
    calls = value if isinstance(value, list) else [value]
    if not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        return None
    return [{"type": "function", "function": call} for call in calls]


def _joined(parts: Sequence[Any]) -> str | None:
    """The text of a content in parts; None if one of them is no text (a picture, say)."""
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in parts]
    return "".join(map(str, texts)) if all(isinstance(t, str) for t in texts) else None


def _check_readable(value: Value, row: Row, name: str) -> None:
    fault = _fault(value)
    if fault:
        raise DataError(fault, where=f"{row.where}, field '{name}'", fix=_CORRECT)


def _fault(value: Value, depth: int = 0) -> str:
    """What makes a text, or a text within messages, unusable; empty if nothing does."""
    if isinstance(value, str):
        broken = not value.isascii() and _SURROGATE.search(value)
        return "holds half a character (a lone surrogate such as \\ud800)" if broken else ""
    if depth > _DEEPEST:
        return "is nested too deeply"
    parts = value.values() if isinstance(value, Mapping) else value
    if not isinstance(parts, list | tuple | ValuesView):
        return ""
    return next((fault for part in parts if (fault := _fault(part, depth + 1))), "")
