"""Values that were read become a dataclass, if each of its fields is of the type that it says.

    typed(Verdict, read_object(path), where=str(path))

and the other way with `plain(verdict)`. A field may be a number, a text, a switch, a `Literal`,
another dataclass, a list, tuple or mapping of these, or a union such as `X | None`. A field that is
missing has its default; a name that the dataclass does not know is left out, so that a later
version's file can be read.
"""

import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from orpo.errors import DataError

T = TypeVar("T")

LARGEST = 2**63
"""Whole numbers from here on are refused: no library that takes a count can hold them."""
_KINDS: dict[Any, str] = {
    **{int: "a whole number", float: "a number", str: "a text", bool: "true or false"},
    **{list: "a list", tuple: "a list", Sequence: "a list"},
    **{dict: "a mapping", Mapping: "a mapping", NoneType: "nothing"},
}


def typed(kind: type[T], values: Any, *, where: str) -> T:
    """A dataclass made of values that were read, such as a JSON object."""
    return typing.cast("T", _typed(kind, values, where, ""))


def plain(value: Any) -> Any:
    """A dataclass and all that it holds for JSON, as `typed` reads it again.

    JSON knows no infinity: a number that is not finite is None, and the field's metadata may say
    under "null" which one is meant.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return _written(value)
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def sometimes(default: Any) -> Any:
    """A field that stands in JSON only where it is not its default; `dict` is an empty one."""
    return _marked({"sometimes": True}, default)


def inline(default: Any = MISSING) -> Any:
    """A field whose entries stand in JSON in its place: a dataclass, or a mapping of the rest."""
    return _marked({"inline": True}, default)


def _marked(metadata: dict[str, Any], default: Any) -> Any:
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def kind_of(value: Any) -> str:
    """What a value is, in words."""
    return _KINDS.get(type(value), type(value).__name__)


def members(kind: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    return get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)


def _typed(kind: Any, value: Any, where: str, name: str) -> Any:
    for one in members(kind):
        if _fits(one, value):
            return _made(one, value, where, name)
    wanted = [one for one in members(kind) if one is not NoneType]
    said = f"is {_shown(value, wanted)}, expected {' or '.join(map(_expected, wanted))}"
    raise DataError(f"{name!r} {said}" if name else said, where=where)


def _fits(kind: Any, value: Any) -> bool:
    origin = get_origin(kind) or kind
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(kind))
    if origin in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
        return whole or (origin is float and isinstance(value, float))
    if is_dataclass(origin):
        return isinstance(value, dict)
    if origin in (tuple, Sequence):  # JSON has lists alone
        return isinstance(value, list | tuple)
    return origin is Any or isinstance(value, origin)


def _made(kind: Any, value: Any, where: str, name: str) -> Any:
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if is_dataclass(kind):
        return _filled(kind, value, where, f"{name}." if name else "")
    if not inner or origin is Literal:
        return tuple(value) if origin is tuple else value
    if origin in (dict, Mapping):
        return {
            _key(inner[0], key, where, name): _typed(
                inner[1], one, where, f"{name}.{key}".lstrip(".")
            )
            for key, one in value.items()
        }
    if origin is tuple and Ellipsis not in inner:
        if len(value) != len(inner):
            said = f"{name!r} has {len(value)} values, expected {len(inner)}"
            raise DataError(said, where=where)
    else:
        inner = (inner[0],) * len(value)
    pairs = zip(inner, value, strict=True)
    made = [_typed(one, part, where, f"{name}[{n}]") for n, (one, part) in enumerate(pairs)]
    return tuple(made) if origin is tuple else made


def _key(kind: Any, key: Any, where: str, name: str) -> Any:
    """A key of a mapping; JSON has texts alone."""
    if kind is not int or isinstance(key, int):
        return key
    try:
        return int(key)
    except ValueError:
        raise DataError(f"{name!r} has a key {key!r:.60}, expected a number", where=where) from None


def _written(made: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in fields(made):
        value = getattr(made, one.name)
        if one.metadata.get("inline"):
            found |= plain(value) or {}
        elif not (one.metadata.get("sometimes") and value == _default(one)):
            found[one.name] = plain(value)
    return found


def _default(one: Field[Any]) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()


def _filled(kind: Any, values: Mapping[str, Any], where: str, prefix: str) -> Any:
    made = {}
    for one, hint in _fields(kind):
        if one.metadata.get("inline"):
            made[one.name] = _inlined(kind, hint, values, where, prefix)
        elif one.name in values:
            value = values[one.name]
            if value is None and "null" in one.metadata:
                value = one.metadata["null"]
            made[one.name] = _typed(hint, value, where, prefix + one.name)
        elif _default(one) is MISSING:
            raise DataError(f"lacks '{prefix}{one.name}'", where=where)
    return kind(**made)


def _inlined(outer: Any, hint: Any, values: Mapping[str, Any], where: str, prefix: str) -> Any:
    """What stands among the entries of another; None, where it may, if none of its own does."""
    (kind,) = (one for one in members(hint) if one is not NoneType)
    if is_dataclass(kind):
        found = any(one.name in values for one in fields(kind))
        return _filled(kind, values, where, prefix) if found or kind is hint else None
    known = {one.name for one, _ in _fields(outer)}
    rest = {name: value for name, value in values.items() if name not in known}
    return _typed(kind, rest, where, prefix.rstrip("."))


@cache
def _fields(kind: Any) -> list[tuple[Any, Any]]:
    hints = typing.get_type_hints(kind)
    return [(one, hints[one.name]) for one in fields(kind) if one.init]


def _shown(value: Any, wanted: list[Any]) -> str:
    """Where only some values are wanted, the value says more than its type."""
    choice = any(get_origin(one) is Literal for one in wanted)
    return f"{value!r:.60}" if choice and isinstance(value, str | int | float) else kind_of(value)


def _expected(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    return _KINDS.get(get_origin(kind) or kind, "a mapping")
