"""Flags and help out of a dataclass of options, and the dataclass out of what was given."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from orpo.commands import options as settings
from orpo.setting_types import CHOICES

T = TypeVar("T")

SETTINGS: dict[str, dict[str, Any]] = {
    "data_format": {"metavar": "FORMAT", "help": "what the columns mean, if they leave it open"},
    "pair_rule": {
        "metavar": "RULE",
        "help": "the pair out of scored answers: best_worst, best_second or best_random",
    },
    "max_length": {"type": int, "metavar": "N", "help": "tokens of prompt and answer together"},
    "max_prompt_length": {"type": int, "metavar": "N", "help": "tokens of the prompt"},
    "truncation": {
        "choices": CHOICES["truncation"],
        "metavar": "HOW",
        "help": f"how over-long pairs are treated: {', '.join(CHOICES['truncation'])}",
    },
    "nll_scope": {
        "choices": CHOICES["nll_scope"],
        "metavar": "SCOPE",
        "help": f"tokens that the NLL counts: {', '.join(CHOICES['nll_scope'])}",
    },
    "chat_template": {
        "metavar": "FILE",
        "help": "Jinja file that replaces the tokenizer's chat template",
    },
    "chat_template_kwargs": {
        "metavar": "JSON",
        "help": "extra variables for the chat template",
    },
    "trust_remote_code": {"action": "store_true", "help": "allow a model's own code to run"},
}
"""Flags that are settings of the training, by the same names."""


def add_options(parser: argparse._ActionsContainer, kind: type) -> None:
    """A flag or a word for every option of a dataclass.

    Args:
        parser: Of the command.
        kind: A dataclass whose fields are made by `orpo.options`.
    """
    _add(parser, kind, {}, ())


def options_from(given: argparse.Namespace, kind: type[T]) -> T:
    """The dataclass with what was given; its own defaults for the rest.

    Raises:
        ConfigError: What the dataclass itself refuses.
    """
    return _made(vars(given), kind, {}, ())


def _add(
    parser: argparse._ActionsContainer, kind: type, other: Mapping[str, Any], without: Any
) -> None:
    hints = get_type_hints(kind)
    for one in fields(kind):
        about = one.metadata
        if "group" in about:
            under = parser.add_argument_group(about["title"], about["text"] or None)
            known = {**about["other"], about["unless"]: None}
            _add(under, about["group"], known, about["without"])
        elif "settings" in about and not about["settings"]:
            settings.add_settings(parser)
        elif "settings" in about:
            under = parser.add_argument_group("settings of the training")
            for name in about["settings"]:
                _flag(under, name, default=argparse.SUPPRESS, **SETTINGS[name])
        elif "help" in about and one.name not in without:
            required = one.name not in other and one.default is MISSING
            _add_one(parser, one, hints[one.name], required)


def _add_one(
    parser: argparse._ActionsContainer, one: Field[Any], hint: Any, required: bool
) -> None:
    about, how = one.metadata, _reading(hint)
    if about.get("choices"):
        how["choices"] = about["choices"]
    if about.get("parse"):
        how["type"] = about["parse"]
    how |= {name: about[name] for name in ("help", "metavar") if about.get(name)}
    how["help"] = how["help"].replace("%", "%%")
    if isinstance(how.get("nargs"), int) and "metavar" in how:
        how["metavar"] = tuple(how["metavar"].split())
    if about.get("positional"):
        if how.get("type") is _by_comma:  # several words
            how |= {"nargs": "+" if required else "*", "type": str}
        elif not required:
            how["nargs"] = "?"
        parser.add_argument(one.name, default=argparse.SUPPRESS, **how)
        return
    if "repeat" in about:
        how |= {"action": "append", "type": str}
    if "bare" in about:
        how |= {"nargs": "?", "const": about["bare"]}
    name = about.get("flag") or one.name
    _flag(parser, name, dest=name, default=argparse.SUPPRESS, required=required, **how)


def _flag(parser: argparse._ActionsContainer, name: str, **how: Any) -> None:
    """A flag that may be written with dashes, too."""
    if len(name) == 1:
        parser.add_argument(f"-{name}", **how)
        return
    parser.add_argument(*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")), **how)


def _reading(hint: Any) -> dict[str, Any]:
    """How argparse reads a value of a type."""
    if get_origin(hint) in {Union, UnionType}:
        (hint,) = (kind for kind in get_args(hint) if kind is not NoneType)
    if hint is bool:
        return {"action": "store_true"}
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    if get_origin(hint) is list:
        return {"nargs": "+", "action": "extend"}
    if get_origin(hint) is tuple and get_args(hint)[-1] is not Ellipsis:
        return {"type": get_args(hint)[0], "nargs": len(get_args(hint))}
    if get_origin(hint) is tuple:
        return {"type": _by_comma}
    kind = json.loads if (get_origin(hint) or hint) is dict else str
    return {"type": hint if hint in {int, float, Path} else kind}


def _by_comma(text: str) -> tuple[str, ...]:
    return tuple(part for part in (part.strip() for part in text.split(",")) if part)


def _made(values: Mapping[str, Any], kind: type[T], other: Mapping[str, Any], without: Any) -> T:
    chosen: dict[str, Any] = dict(other)
    for one in fields(kind):  # type: ignore[arg-type]
        about = one.metadata
        if "group" in about:
            chosen[one.name] = _made_group(values, about)
        elif "settings" in about:
            own = {n: values[n] for n in about["settings"] or settings.known() if n in values}
            chosen[one.name] = {**about["other"], **own}
        elif "asked" in about:
            chosen[one.name] = values.get(about["asked"], one.default)
        elif "help" in about and one.name not in without:
            name = one.name if about.get("positional") else about.get("flag") or one.name
            if name in values:
                value = values[name]
                chosen[one.name] = tuple(value) if isinstance(value, list) else value
    return kind(**chosen)


def _made_group(values: Mapping[str, Any], about: Mapping[str, Any]) -> Any:
    kind, needed = about["group"], about["unless"]
    if needed:
        flag = next(one for one in fields(kind) if one.name == needed).metadata.get("flag")
        if (flag or needed) not in values:
            return None
    return _made(values, kind, about["other"], about["without"])
