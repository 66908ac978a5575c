"""What stands in a column: text, messages, numbers; anything else is refused by name."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Mapping, ValuesView
from typing import Any, TypeAlias

from orpo.data.media import holds_media
from orpo.data.speakers import is_speaker, speaker_of
from orpo.data.spelled import literal
from orpo.data.types import Message, Row
from orpo.errors import DataError

__all__ = [
    "as_messages",
    "assistant",
    "has_value",
    "number",
    "past_turns",
    "required",
    "text",
    "text_or_messages",
    "tools_of",
    "user",
    "weight_of",
    "wrong_type",
]

Value: TypeAlias = Any  # what JSON, CSV or Parquet hold

_DEEPEST = 32  # levels of nesting in a tool call that anyone means
_FLOAT32 = (1.1754943508222875e-38, 3.4028234663852886e38)  # smallest normal one, largest
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_SAID = ("content", "value", "parts")  # where a message keeps what is said
_TEXT_PARTS = ("text", "input_text", "output_text")
_CORRECT = "Correct the row, or set on_bad_row='drop' to leave such rows out."


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
        if kind := _foreign_part(value):
            raise DataError(
                f"holds a part of type {kind!r}, and only texts are trained on",
                where=f"{row.where}, field '{name}'",
                fix="Give rows without pictures, sound, video and files.",
            )
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


def weight_of(row: Row) -> float:
    """The number in the column "weight", 1 without one; 0 if a float32 cannot tell it from 0.

    Raises:
        DataError: It is negative, or larger than any float32, or no number.
    """
    found = number(row, "weight")
    if found is None:
        return 1.0
    smallest, largest = _FLOAT32
    if found < 0 or found > largest:
        negative = found < 0
        raise DataError(
            f"a weight must {'not be negative' if negative else 'fit a float32'}, is {found}",
            where=f"{row.where}, field 'weight'",
            fix="Swap 'chosen' and 'rejected' if that is what is meant."
            if negative
            else "Give weights around 1, which is the weight of a row without one.",
        )
    return found if found >= smallest else 0.0


def past_turns(row: Row, name: str) -> list[tuple[str, str]]:
    """What was asked and answered before, out of a column of [user, assistant] pairs of texts.

    Raises:
        DataError: The column holds something else.
    """
    value = row.values.get(name)
    if value is None or value in ("", []):
        return []
    turns = value if isinstance(value, list | tuple) else [value]
    for turn in turns:
        texts = isinstance(turn, list | tuple) and all(isinstance(said, str) for said in turn)
        if not texts or len(turn) != 2:
            raise wrong_type(row, name, "a list of [user, assistant] pairs of texts")
    _check_readable(value, row, name)
    return [(asked, said) for asked, said in turns]


def tools_of(row: Row) -> list[Any] | None:
    """The descriptions of tools in the column "tools": a list of objects, or JSON text of one.

    Raises:
        DataError: The column holds something else.
    """
    value = row.values.get("tools")
    spelled = isinstance(value, str)
    if isinstance(value, str) and value.strip():
        written, value = value.strip(), literal(value)
        if value is None and written not in {"null", "None"}:
            raise wrong_type(row, "tools", "a list of tools, or JSON text of one")
    if not value and (value is None or isinstance(value, str | list)):
        return None
    value = [value] if isinstance(value, Mapping) else value
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise wrong_type(row, "tools", "a list of tools, or JSON text of one")
    _check_readable(value, row, "tools")
    return value if spelled else [_without_nulls(tool) for tool in value]


def as_messages(value: Value) -> list[Message]:
    """Messages out of {role, content} or ShareGPT's {from, value}, one or a list; else empty."""
    turns = [value] if isinstance(value, Mapping) else value
    if not isinstance(turns, list | tuple):
        return []
    messages = [_message(turn) for turn in turns]
    return [m for m in messages if m is not None] if all(messages) else []


def assistant(said: str) -> Message:
    """What the assistant says, as a message."""
    return {"role": "assistant", "content": said}


def user(said: str) -> Message:
    """What the user says, as a message."""
    return {"role": "user", "content": said}


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
    """A turn with "role" and "content", whichever way it is spelled; None if it is no message."""
    if not isinstance(turn, Mapping):
        return None
    if not isinstance(turn.get("role"), str) and not _from_somebody(turn):
        return None
    role, calls = speaker_of(turn["from"] if turn.get("role") is None else turn["role"])
    name = next((part for part in _SAID if turn.get(part) is not None), "content")
    message = {key: part for key, part in turn.items() if key not in {"role", "from", name}}
    message = {"role": role, **message}
    if name in turn:
        message["content"] = _content(turn[name])
    if "tool_calls" in message:
        message = dict(_with_calls(message))
    said = message.get("content")
    called = _calls(said) if calls and isinstance(said, str) else None
    if called:
        return {**message, "content": "", "tool_calls": called}
    silent = turn.get(name) is None and bool(message.get("tool_calls"))
    return message if isinstance(said, str) or silent else None


def _from_somebody(turn: Mapping[str, Any]) -> bool:
    """Whether ShareGPT's "from" says who speaks; nobody else speaks there."""
    speaker = turn.get("from")
    return turn.get("role") is None and isinstance(speaker, str) and is_speaker(speaker)


def _calls(said: str) -> list[Any] | None:
    """The tool calls that a "function_call" turn spells as JSON; None if it does not."""
    value = literal(said)
    calls = value if isinstance(value, list) else [value]
    if not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        return None
    return [{"type": "function", "function": _with_arguments(call)} for call in calls]


def _with_calls(turn: Mapping[str, Any]) -> Message:
    """A message with its tool calls as templates want them; null calls are none."""
    calls = turn["tool_calls"]
    if isinstance(calls, str):
        calls = literal(calls) if calls.strip() else None
        calls = [calls] if isinstance(calls, Mapping) else calls
    if calls is None:
        return {name: part for name, part in turn.items() if name != "tool_calls"}
    if not isinstance(calls, list | tuple):
        return turn
    return {**turn, "tool_calls": [_with_arguments(_without_nulls(call)) for call in calls]}


def _with_arguments(call: Value) -> Value:
    """A tool call with its arguments as an object, where they are JSON text of one (OpenAI)."""
    if not isinstance(call, Mapping):
        return call
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _with_arguments(call["function"])}
    try:
        found = json.loads(call["arguments"]) if isinstance(call.get("arguments"), str) else None
    except (ValueError, RecursionError):
        found = None
    usable = isinstance(found, dict) and not _fault(found)
    return {**call, "arguments": found} if usable else call


def _without_nulls(value: Value, depth: int = 0) -> Value:
    """The same without members that are null: Parquet fills in those that a row does not have."""
    if depth > _DEEPEST:
        return value
    if isinstance(value, Mapping):
        there = {name: part for name, part in value.items() if part is not None}
        return {name: _without_nulls(part, depth + 1) for name, part in there.items()}
    if isinstance(value, list | tuple):
        return [_without_nulls(part, depth + 1) for part in value]
    return value


def _content(said: Value) -> Value:
    """The text of a content in parts; None if one of them is no text (a picture, say)."""
    if not isinstance(said, list | tuple | Mapping):
        return said
    texts = [_part(part) for part in ([said] if isinstance(said, Mapping) else said)]
    return "".join(map(str, texts)) if all(isinstance(t, str) for t in texts) else None


def _part(part: Value) -> str | None:
    """The text of a part of a content; None if it is something else."""
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping) or _foreign(part):
        return None
    return next((part[n] for n in ("text", *_SAID) if isinstance(part.get(n), str)), None)


def _foreign(part: Mapping[str, Any]) -> str:
    """What a part of a content is, if it is no text: "image_url", say."""
    kind = part.get("type")
    if isinstance(kind, str) and kind not in _TEXT_PARTS:
        return kind
    return next((str(name) for name in part if holds_media(str(name), part[name])), "")


def _foreign_part(turns: Value) -> str:
    """The first part of some messages that is no text; empty if there is none."""
    for turn in turns if isinstance(turns, list | tuple) else [turns]:
        for name in _SAID if isinstance(turn, Mapping) else ():
            parts = turn.get(name)
            for part in parts if isinstance(parts, list | tuple) else [parts]:
                if isinstance(part, Mapping) and _part(part) is None:
                    return _foreign(part) or str(next(iter(part), "nothing"))
    return ""


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
