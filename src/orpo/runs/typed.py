"""Values that were read become a dataclass, if each of its fields is of the type that it says."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

from orpo.errors import DataError

T = TypeVar("T")

LARGEST = 2**63
"""Whole numbers from here on are refused: no library that takes a count can hold them."""
_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
    type(None): "nothing",
}


def typed(kind: type[T], values: Any, *, where: str) -> T:
    """A dataclass made of values that were read; names that it does not know are left out.

    Args:
        kind: The dataclass; its fields are numbers, texts, lists, mappings and other dataclasses.
            The metadata of a field may say under "null" which value null stands for.
        values: Should be a mapping.
        where: The file, for messages.

    Raises:
        DataError: A field is missing or of another type; names it.
    """
    return typing.cast("T", _typed(kind, values, where, ""))


def plain(value: Any) -> Any:
    """A dataclass and all that it holds for JSON, as `typed` reads it again.

    JSON knows no infinity: a number that is not finite is None.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def kind_of(value: Any) -> str:
    """What a value is, in words."""
    return _NAMES.get(type(value), type(value).__name__)


def _typed(kind: Any, value: Any, where: str, name: str) -> Any:
    if get_origin(kind) in (Union, types.UnionType):  # of one type and None
        if value is None:
            return None
        (kind,) = (one for one in get_args(kind) if one is not type(None))
    made, inner = get_origin(kind) or kind, get_args(kind)
    if not _fits(made, value):
        expected = _NAMES.get(made, "a mapping")
        said = f"is {kind_of(value)}, expected {expected}"
        raise DataError(f"{name!r} {said}" if name else said, where=where)
    if made is list:
        return [_typed(inner[0], one, where, f"{name}[{n}]") for n, one in enumerate(value)]
    if made is dict:
        return {key: _typed(inner[1], one, where, f"{name}.{key}") for key, one in value.items()}
    return _filled(kind, value, where, f"{name}." if name else "") if is_dataclass(kind) else value


def _fits(kind: Any, value: Any) -> bool:
    if kind in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
        return whole or (kind is float and isinstance(value, float))
    if is_dataclass(kind):
        return isinstance(value, dict)
    return kind is Any or isinstance(value, kind)


def _filled(kind: Any, values: Mapping[str, Any], where: str, prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    given = {f.name: values[f.name] for f in fields(kind) if f.name in values}
    null = {f.name: f.metadata["null"] for f in fields(kind) if "null" in f.metadata}
    known = {n: null[n] if v is None and n in null else v for n, v in given.items()}
    made = {n: _typed(hints[n], value, where, prefix + n) for n, value in known.items()}
    try:
        return kind(**made)
    except TypeError:
        missing = next(f.name for f in fields(kind) if f.name not in values)
        raise DataError(f"lacks '{prefix}{missing}'", where=where) from None
