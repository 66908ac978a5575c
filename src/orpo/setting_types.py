"""Values of settings, held against the types that their fields declare.

YAML gives what it likes: 1e-5 is a text, 2026-12-01 a date, `no` is false, and a line with an
indented one below it is a mapping. Python checks nothing either. What is meant is converted; the
rest is refused by the field's name, in one line.
"""

import math
import os
from collections.abc import Collection, Mapping
from enum import Enum
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from orpo.errors import ConfigError, did_you_mean
from orpo.runs.reading import parse_json

CHOICES: dict[str, tuple[str, ...]] = {
    "objective": ("orpo", "sft", "dpo"),
    "nll_scope": ("sequence", "completion"),
    "truncation": ("truncate_answer", "keep_end", "keep_start", "drop", "error"),
    "engine": ("auto", "shared", "padded"),
    "on_bad_row": ("error", "drop"),
    "data_format": (
        *("auto", "prompt", "implicit", "hh", "alpaca"),
        *("sharegpt", "messages", "two_messages", "answers"),
    ),
    "pair_rule": ("best_worst", "best_second", "best_random"),
    "model_dtype": ("float32", "bfloat16", "float16", "auto"),
    "quantize": ("none", "4bit"),
    "on_nonfinite": ("stop", "skip"),
    "train_sampling_strategy": ("random", "sequential"),
}
"""Settings of a training with a few values, and those."""

COLUMNS = (
    *("prompt", "chosen", "rejected", "system", "tools", "weight", "history"),
    *("instruction", "input", "messages", "conversations", "chosen_messages", "rejected_messages"),
    *("answers", "scores", "ranks", "score_chosen", "score_rejected", "split"),
)
"""Names that columns of the data can be given with `columns`."""


def as_declared(value: Any, declared: Any, name: str) -> Any:
    """The value as a field's type, resolved by `typing.get_type_hints`, wants it.

    Raises:
        ConfigError: It is of another type, and cannot be meant; `name` is the field's.
    """
    one = get_origin(declared) in {Literal, dict, list}
    members = (declared,) if one else get_args(declared) or (declared,)
    kinds = [kind for kind in members if kind is not NoneType]
    if value is None:
        if NoneType in members:
            return None
        raise ConfigError("is empty", where=name, fix="Give a value, or leave the setting out.")
    if {*kinds} <= {int, float}:
        return as_number(value, name, whole=float not in kinds)
    if kinds == [bool]:
        return _as_switch(value, name)
    enums = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum)]
    if enums and isinstance(value, str):
        choices = [str(member.value) for member in enums[0]]
        return one_of(choices, value, name)
    for kind in kinds:
        found = _fitting(value, kind, name)
        if found is not None:
            return found
    return _read_or_refused(value, kinds, name)


def one_of(choices: Collection[str], value: Any, name: str) -> Any:
    """The value, refused where it is none of the choices."""
    if value not in choices:
        near = did_you_mean(str(value), choices)
        raise ConfigError(f"{value!r} is none of {', '.join(choices)}", where=name, fix=near)
    return value


def as_number(value: Any, name: str, *, whole: bool) -> int | float:
    """A finite number out of a number or a text."""
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not math.isfinite(number):
        raise ConfigError(f"must be a finite number, is {_shown(value)}", where=name)
    if not whole:
        return value if type(value) in (int, float) else number
    if number != int(number):
        raise ConfigError(f"must be a whole number, is {_shown(value)}", where=name)
    return value if type(value) is int else int(number)


def as_mapping(value: Any, name: str) -> dict[str, Any]:
    """An object out of a mapping or its JSON; empty where nothing is given."""
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError as error:
            raise ConfigError(f"is not JSON ({error})", where=name) from error
    if not isinstance(value, Mapping):
        raise ConfigError(f"must be an object, is {_shown(value)}", where=name)
    return dict(value)


def as_columns(value: Any) -> dict[str, str]:
    """Our names of columns -> the data's, out of a mapping, its JSON or prompt=question,...

    A name of the data's keeps its blanks: there are headers with some.
    """
    where, way = "columns", "Write OURS=THEIRS, such as prompt=question,chosen=good,rejected=bad."
    if isinstance(value, str) and not value.lstrip().startswith("{"):
        parts = [part.partition("=") for part in value.split(",") if part.strip()]
        wrong = next((name for name, equals, _ in parts if not equals), None)
        if wrong is not None:
            as_json = """Where a name has a comma, write JSON: '{"prompt": "a, b"}'."""
            what = f"{wrong.strip()!r} names one column"
            raise ConfigError(what, where=where, fix=f"{way} {as_json}")
        names = {ours.strip(): theirs for ours, _, theirs in parts}
        if len(names) < len(parts):
            raise ConfigError("names one of ours twice", where=where, fix=way)
    else:
        try:
            names = as_mapping(value, where)
        except ConfigError as error:
            raise ConfigError(error.what, where=where, fix=way) from error
    theirs: Any
    for ours, theirs in names.items():
        if not (theirs and type(theirs) is str):
            raise ConfigError(f"{ours!r} must be the name of a column", where=where, fix=way)
        if ours not in COLUMNS:
            near = did_you_mean(ours, COLUMNS, shown="{}=" + theirs)
            turned = f"Did you mean {theirs}={ours}?" if theirs in COLUMNS else ""
            what = f"{ours!r} is none of ours: {', '.join(COLUMNS[:7])}, ..."
            raise ConfigError(what, where=where, fix=turned or near or way)
    return names


def _as_switch(value: Any, name: str) -> bool:
    if type(value) in (bool, int) and value in (True, False):
        return bool(value)
    raise ConfigError(f"must be true or false, is {_shown(value)}", where=name)


def _fitting(value: Any, kind: Any, name: str) -> Any:
    """The value as this type; None where it is not of it."""
    origin = get_origin(kind) or kind
    if origin is Literal:
        return value if any(value is choice for choice in get_args(kind)) else None
    if origin is list and isinstance(value, list | tuple):
        (inner,) = get_args(kind) or (Any,)
        return [as_declared(part, inner, f"{name}[{i}]") for i, part in enumerate(value)]
    if origin is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if not isinstance(origin, type):
        fits = origin is Any
    elif issubclass(origin, Enum):
        fits = value in [member.value for member in origin]
    else:
        fits = isinstance(value, origin)
        fits &= not (origin in {int, float} and isinstance(value, bool))
    return value if fits else None


def _read_or_refused(value: Any, kinds: list[Any], name: str) -> Any:
    """A text where something else is wanted may spell it; anything else is refused."""
    origins = [get_origin(kind) or kind for kind in kinds]
    if isinstance(value, str):
        if dict in origins:
            return as_mapping(value, name)
        if list in origins:
            return as_declared([value], kinds[origins.index(list)], name)
        if bool in origins:
            return _as_switch(value, name)
    if str in origins and dict not in origins:
        one = isinstance(value, list | Mapping)
        what = f"must be text, is {_shown(value)}"
        raise ConfigError(what, where=name, fix="Give one name." if one else "Put it in quotes.")
    wanted = " or ".join(_WORDS.get(one, getattr(one, "__name__", str(one))) for one in origins)
    raise ConfigError(f"must be {wanted}, is {_shown(value)}", where=name)


_WORDS: dict[Any, str] = {
    **{dict: "an object", list: "a list", bool: "true or false", str: "text"},
    **{int: "a whole number", float: "a number"},
}


def _shown(value: Any) -> str:
    """A value in a message: as it stands, but never pages of it."""
    text = repr(value)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    if not isinstance(value, list | tuple | Mapping):
        return text
    kind = "object" if isinstance(value, Mapping) else "list"
    a = "an" if kind == "object" else "a"
    return f"{a} {kind} ({text})" if value else f"an empty {kind}"
