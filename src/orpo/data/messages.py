"""Messages of a conversation, whichever way other tools write them: roles, turns, tool calls, text.

Who speaks is brought under the names that chat templates know, {from, value} under {role, content},
contents in parts into one text, arguments of tool calls into objects. `unspelled` reads messages
that somebody wrote into a text: JSON, Python, or an array as numpy prints it, without commas.
"""

import ast
import json
import re
import warnings
from collections.abc import Mapping, ValuesView
from typing import Any

from orpo.data.media import holds_media
from orpo.data.types import Message

MISSPELT = object()
"""What `unspelled` gives for messages that cannot be read."""

_SPEAKERS = {
    "system": ("system",),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "model", "bot", "chatbot", "ai", "llm"),
    "tool": ("tool", "observation", "tool_response", "tool_result", "function_response"),
}
_ROLES = {name: speaker for speaker, names in _SPEAKERS.items() for name in names}
_CALLS = ("function_call", "tool_call")
_OTHERS = ("developer", "function", "ipython")  # which some templates know by themselves

_SAID = ("content", "value", "parts")  # where a message keeps what is said
_TEXT_PARTS = ("text", "input_text", "output_text")
_DEEPEST = 32  # levels of nesting in a tool call that anyone means
_SURROGATE = re.compile(r"[\ud800-\udfff]")

_FAULTS = (ValueError, SyntaxError, RecursionError, MemoryError)
_SPEAKER = re.compile(r"""['"]\\?(?:role|from)\\?['"]\s*:\s*\\?['"]([^'"\\]*)""")
_SPEAKS = re.compile(r"""['"](?:content|value|parts|tool_calls)\\?['"]\s*:""")
_OPENS = re.compile(r"""(?:array\()?\[?\s*\{\s*['"](?:role|from|content|value|messages)['"]\s*:""")
# A string, which stays as it is; or a gap between two members, where numpy prints no comma.
_STRING_OR_GAP = re.compile(r"""('(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")|([}\])])(\s++)(?=[{\[(])""")
_HOLDERS = ("messages", "conversations")
_NAMES = {"null": None, "nan": None, "true": True, "false": False}


class _CodeError(Exception):
    """What is spelled has names in it and is no literal: an answer that shows some code."""


def assistant(said: str) -> Message:
    """What the assistant says."""
    return {"role": "assistant", "content": said}


def user(said: str) -> Message:
    """What the user says."""
    return {"role": "user", "content": said}


def is_speaker(name: str) -> bool:
    """Whether somebody who speaks in conversations is called so."""
    role, calls = _speaker_of(name)
    return calls or role in _SPEAKERS or name.strip().casefold() in _OTHERS


def _speaker_of(name: str) -> tuple[str, bool]:
    """The role of a template, itself where none is known, and whether a tool is called."""
    plain = name.strip().casefold().replace(" ", "_").replace("-", "_")
    return ("assistant", True) if plain in _CALLS else (_ROLES.get(plain, name), False)


def as_messages(value: Any) -> list[Message]:
    """Messages out of {role, content} or ShareGPT's {from, value}, one or a list; else empty."""
    turns = [value] if isinstance(value, Mapping) else value
    if not isinstance(turns, list | tuple):
        return []
    messages = [_message(turn) for turn in turns]
    return [m for m in messages if m is not None] if all(messages) else []


def _message(turn: Any) -> Message | None:
    """A turn with "role" and "content", whichever way it is spelled; None if it is no message."""
    if not isinstance(turn, Mapping):
        return None
    speaker = turn.get("role")
    if speaker is None and isinstance(turn.get("from"), str) and is_speaker(turn["from"]):
        speaker = turn["from"]  # ShareGPT: nobody else speaks there
    if not isinstance(speaker, str):
        return None
    role, calls = _speaker_of(speaker)
    name = next((part for part in _SAID if turn.get(part) is not None), "content")
    message = {key: part for key, part in turn.items() if key not in {"role", "from", name}}
    message = {"role": role, **message}
    if name in turn:
        message["content"] = _content(turn[name])
    if "tool_calls" in message:
        message = _with_calls(message)
    said = message.get("content")
    called = _called(said) if calls and isinstance(said, str) else None
    if called:
        return {**message, "content": "", "tool_calls": called}
    silent = turn.get(name) is None and bool(message.get("tool_calls"))
    return message if isinstance(said, str) or silent else None


def _called(said: str) -> list[Any] | None:
    """The tool calls that a "function_call" turn spells as JSON; None if it does not."""
    value = literal(said)
    calls = value if isinstance(value, list) else [value]
    if not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        return None
    return [{"type": "function", "function": _with_arguments(call)} for call in calls]


def _with_calls(message: dict[str, Any]) -> dict[str, Any]:
    """A message with its tool calls as templates want them; null calls are none."""
    calls = message["tool_calls"]
    if isinstance(calls, str):
        calls = literal(calls) if calls.strip() else None
        calls = [calls] if isinstance(calls, Mapping) else calls
    if calls is None:
        return {name: part for name, part in message.items() if name != "tool_calls"}
    if not isinstance(calls, list | tuple):
        return message
    return {**message, "tool_calls": [_with_arguments(without_nulls(call)) for call in calls]}


def _with_arguments(call: Any) -> Any:
    """A tool call with its arguments as an object, where they are JSON text of one (OpenAI)."""
    if not isinstance(call, Mapping):
        return call
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _with_arguments(call["function"])}
    try:
        found = json.loads(call["arguments"]) if isinstance(call.get("arguments"), str) else None
    except (ValueError, RecursionError):
        found = None
    usable = isinstance(found, dict) and not unusable(found)
    return {**call, "arguments": found} if usable else call


def without_nulls(value: Any, depth: int = 0) -> Any:
    """The same without members that are null: Parquet fills in those that a row does not have."""
    if depth > _DEEPEST:
        return value
    if isinstance(value, Mapping):
        there = {name: part for name, part in value.items() if part is not None}
        return {name: without_nulls(part, depth + 1) for name, part in there.items()}
    if isinstance(value, list | tuple):
        return [without_nulls(part, depth + 1) for part in value]
    return value


def unusable(value: Any, depth: int = 0) -> str:
    """What makes a text, or a text within messages, unusable; empty if nothing does."""
    if isinstance(value, str):
        broken = not value.isascii() and _SURROGATE.search(value)
        return "holds half a character (a lone surrogate such as \\ud800)" if broken else ""
    if depth > _DEEPEST:
        return "is nested too deeply"
    parts = value.values() if isinstance(value, Mapping) else value
    if not isinstance(parts, list | tuple | ValuesView):
        return ""
    return next((fault for part in parts if (fault := unusable(part, depth + 1))), "")


def _content(said: Any) -> Any:
    """The text of a content in parts; None if one of them is no text (a picture, say)."""
    if not isinstance(said, list | tuple | Mapping):
        return said
    texts = [_text_of(part) for part in ([said] if isinstance(said, Mapping) else said)]
    return "".join(map(str, texts)) if all(isinstance(t, str) for t in texts) else None


def _text_of(part: Any) -> str | None:
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


def foreign_part(turns: Any) -> str:
    """The first part of some messages that is no text; empty if there is none."""
    for turn in turns if isinstance(turns, list | tuple) else [turns]:
        for name in _SAID if isinstance(turn, Mapping) else ():
            parts = turn.get(name)
            for part in parts if isinstance(parts, list | tuple) else [parts]:
                if isinstance(part, Mapping) and _text_of(part) is None:
                    return _foreign(part) or str(next(iter(part), "nothing"))
    return ""


def unspelled(text: str) -> Any:
    """The messages that a text spells, or the text itself if it spells none.

    Messages are a list, one message, or a mapping with "messages"; `MISSPELT` stands for what
    begins like messages and breaks off.
    """
    body = text.strip()
    speaker = _SPEAKER.search(body) if body.startswith(("[", "{", '"', "array(")) else None
    if speaker is None or not is_speaker(speaker[1]) or not _SPEAKS.search(body):
        return text
    try:
        found, end = json.JSONDecoder(strict=False).raw_decode(body)
        if end < len(body):  # more messages, or words of an answer that shows some JSON
            found = literal(f"[{body}]")
        elif isinstance(found, str):
            inner = unspelled(found)
            return text if inner is found else inner
    except (ValueError, RecursionError):
        try:
            found = _python(body)
        except _CodeError:
            return text
        except _FAULTS:
            return MISSPELT if _OPENS.match(body) else text
    return found if _are_messages(found) else text


def literal(text: str) -> Any:
    """What a text spells in JSON or Python; None if it spells nothing."""
    for read in (json.loads, _python):
        try:
            return read(text)
        except (_CodeError, *_FAULTS):
            pass
    return None


def _python(text: str) -> Any:
    text = _STRING_OR_GAP.sub(lambda gap: gap[1] or f"{gap[2]},{gap[3]}", text.strip())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in somebody's strings
        return _value(ast.parse(text, mode="eval").body)


def _are_messages(value: Any) -> bool:
    """Whether this is one message, several, or an object that holds some."""
    if isinstance(value, Mapping):
        value = next((value[n] for n in _HOLDERS if isinstance(value.get(n), list)), [value])
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_message, value))


def _is_message(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    speaker = value.get("role", value.get("from"))
    says = not {*_SAID, "tool_calls"}.isdisjoint(value)
    return isinstance(speaker, str) and is_speaker(speaker) and says


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
