"""Messages that somebody wrote into a text: as JSON, or as Python and numpy print them.

    [{"role": "user", "content": "Hi"}]                           JSON
    [{'role': 'user', 'content': 'Hi'}, {'role': ...}]            Python
    [{'role': 'user', 'content': 'Hi'}\\n {'role': ...}]           an array of numpy, without commas
    {"messages": [...], "tools": [...]}                           a whole conversation

A text that is JSON of anything else is a text.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping
from typing import Any

from orpo.data.speakers import is_speaker

__all__ = ["MISSPELT", "literal", "unspelled"]


class _CodeError(Exception):
    """What is spelled has names in it and is no literal: an answer that shows some code."""


MISSPELT = object()
"""What `unspelled` gives for messages that cannot be read."""

_FAULTS = (ValueError, SyntaxError, RecursionError, MemoryError)
_SPEAKER = re.compile(r"""['"]\\?(?:role|from)\\?['"]\s*:\s*\\?['"]([^'"\\]*)""")
_SAID = re.compile(r"""['"](?:content|value|parts|tool_calls)\\?['"]\s*:""")
_OPENS = re.compile(r"""(?:array\()?\[?\s*\{\s*['"](?:role|from|content|value|messages)['"]\s*:""")
# A string, which stays as it is; or a gap between two members, where numpy prints no comma.
_STRING_OR_GAP = re.compile(r"""('(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")|([}\])])(\s++)(?=[{\[(])""")
_HOLDERS = ("messages", "conversations")
_SAID_NAMES = {"content", "value", "parts", "tool_calls"}
_NAMES = {"null": None, "nan": None, "true": True, "false": False}


def unspelled(text: str) -> Any:
    """The messages that a text spells, or the text itself if it spells none.

    Returns:
        The text; a list of messages, a message, or a mapping with "messages"; or `MISSPELT` for
        what begins like messages and breaks off.
    """
    body = text.strip()
    if not body.startswith(("[", "{", '"', "array(")) or not _may_spell(body):
        return text
    try:
        found, end = json.JSONDecoder(strict=False).raw_decode(body)
    except (ValueError, RecursionError):
        return _unprinted(body, text)
    if end < len(body):  # more messages, or words of an answer that shows some JSON
        found = literal(f"[{body}]")
    elif isinstance(found, str):
        inner = unspelled(found)
        return text if inner is found else inner
    return found if _are_messages(found) else text


def literal(text: str) -> Any:
    """What a text spells in JSON or Python; None if it spells nothing."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return _python(text)
    except (_CodeError, *_FAULTS):
        return None


def _unprinted(body: str, text: str) -> Any:
    """The messages that Python printed, the text if it is something else, or `MISSPELT`."""
    try:
        found = _python(body)
    except _CodeError:
        return text
    except _FAULTS:
        return MISSPELT if _OPENS.match(body) else text
    return found if _are_messages(found) else text


def _python(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in somebody's strings
        return _value(ast.parse(_STRING_OR_GAP.sub(_with_comma, text.strip()), mode="eval").body)


def _may_spell(body: str) -> bool:
    speaker = _SPEAKER.search(body)
    return speaker is not None and is_speaker(speaker[1]) and _SAID.search(body) is not None


def _are_messages(value: Any) -> bool:
    """Whether this is one message, several, or an object that holds some."""
    if isinstance(value, Mapping):
        value = next((value[n] for n in _HOLDERS if isinstance(value.get(n), list)), [value])
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_message, value))


def _is_message(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    speaker = value.get("role", value.get("from"))
    return isinstance(speaker, str) and is_speaker(speaker) and not _SAID_NAMES.isdisjoint(value)


def _with_comma(found: re.Match[str]) -> str:
    return found[1] if found[1] is not None else f"{found[2]},{found[3]}"


def _value(node: ast.expr) -> Any:
    """The value of a literal; `array(...)` of numpy counts as what is in it."""
    match node:
        case ast.Constant(value=value) if value is not ...:
            return value
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_value(part) for part in parts]
        case ast.Dict(keys=keys, values=values) if None not in keys:
            names = [_value(key) for key in keys if key is not None]
            return dict(zip(names, map(_value, values), strict=True))
        case ast.Call(func=ast.Name(id="array"), args=[inner]):
            return _value(inner)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
    raise _CodeError
