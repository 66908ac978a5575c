"""Flags and help out of a dataclass of options, and what was given out of them.

A recipe file has settings, too: flags win, and every name and value is checked. Nothing heavy is
loaded until `Asked.config` is called.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from orpo import settings
from orpo.errors import ConfigError, DataError
from orpo.runs.files import found_names
from orpo.runs.reading import load_yaml, read_text
from orpo.train.job import TrainJob

if TYPE_CHECKING:
    from orpo.config import ORPOConfig

T = TypeVar("T")

_TRUE = ("yes", "true", "t", "y", "1")
_FALSE = ("no", "false", "f", "n", "0")
_SWITCH: dict[str, Any] = {"action": "store_true"}


def add_options(
    parser: argparse._ActionsContainer,
    kind: type,
    other: Mapping[str, Any] | None = None,
    without: Any = (),
) -> None:
    """A flag or a word for every field made by `orpo.options`; `other` has defaults."""
    hints = get_type_hints(kind)
    for one in fields(kind):
        about = one.metadata
        if "group" in about:
            under = parser.add_argument_group(about["title"], about["text"] or None)
            known = {**about["other"], about["unless"]: None}
            add_options(under, about["group"], known, about["without"])
            for action in under._group_actions if about["rare"] else ():
                cast(Any, action).rare = True
        elif "settings" in about:
            _add_settings(parser, about["settings"], about["first"])
        elif "help" in about and one.name not in without:
            required = one.name not in (other or ()) and one.default is MISSING
            _add_option(parser, one, hints[one.name], required)


def _add_option(
    parser: argparse._ActionsContainer, one: Field[Any], hint: Any, required: bool
) -> None:
    about, how = one.metadata, _reading(hint)
    if about.get("parse"):
        how["type"] = about["parse"]
    how |= {name: about[name] for name in ("help", "metavar", "choices") if about.get(name)}
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
    how |= {"dest": name, "default": argparse.SUPPRESS, "required": required}
    added = parser.add_argument(*([f"-{name}"] if len(name) == 1 else _spelled(name)), **how)
    cast(Any, added).rare = "rare" in about


def _spelled(name: str) -> list[str]:
    """A flag may be written with dashes, too."""
    return [*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))]


def _reading(hint: Any) -> dict[str, Any]:
    """How argparse reads a value of a type."""
    if get_origin(hint) in {Union, UnionType}:
        (hint,) = (kind for kind in get_args(hint) if kind is not NoneType)
    if hint is bool:
        return {"action": "store_true"}
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


# Settings of a training


def _add_settings(parser: argparse._ActionsContainer, names: tuple[str, ...], first: int) -> None:
    """Flags of the named settings; of all, as transformers' own parser reads them, if none is."""
    every = {**settings.settings_of(TrainJob), **settings.training_settings()}
    groups = {"settings of the training": {name: every[name] for name in names}}
    if not names:
        groups = {t: {n: every.pop(n) for n in told} for t, told in settings.FIRST.items()}
        groups["more settings (every field of TrainingArguments)"] = every
    for number, (title, known) in enumerate(groups.items()):
        group = parser.add_argument_group(title)
        for one in known.values():
            about = {**one.about, "default": argparse.SUPPRESS, "dest": one.name}
            about["help"] = _with_default(one, str(about.get("help", "")))
            if one.name == "resume":  # alone, it means the newest checkpoint
                about |= {"nargs": "?", "const": "newest"}
            # A word may follow where there are few flags: it is not the switch's.
            how = _SWITCH if names and one.type is bool else _as_transformers(one)
            added: Any = group.add_argument(*_spelled(one.name), **how, **about)
            added.rare = number >= first
            added.brief = _with_default(one, settings.FIRST.get(title, {}).get(one.name, ""))
            if one.type is bool and one.default is True:
                no: dict[str, Any] = {"dest": one.name, "default": argparse.SUPPRESS}
                added = group.add_argument(*_spelled(f"no_{one.name}"), action="store_false", **no)
                added.rare = number >= first


def _with_default(one: settings.Setting, said: str) -> str:
    """What a setting is, and what it is where nothing is said."""
    value, said = one.default, said.replace("%", "%%")
    known = isinstance(value, int | float | str) and value not in {False, "", "none", "no", -1}
    if not said or not known or "default" in said.lower():
        return said
    return f"{said.rstrip('.')}. Default {f'{value:g}' if isinstance(value, float) else value}."


def _as_transformers(one: settings.Setting) -> dict[str, Any]:
    """How `HfArgumentParser` reads a setting's value."""
    parts = [one.type] if get_origin(one.type) in {list, dict} else get_args(one.type)
    kinds = [kind for kind in parts or (one.type,) if kind is not NoneType]
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, Enum):
            return {"choices": [str(member.value) for member in kind]}
        if get_origin(kind) is list and (NoneType not in parts or len(kinds) == 1):
            return {"nargs": "+", "type": str if str in kinds else get_args(kind)[0]}
    if kinds == [bool] or (bool in kinds and NoneType not in parts):
        alone = one.type != bool | None and "nargs" not in one.about
        return {"type": _switch, **({"nargs": "?", "const": True} if alone else {})}
    return {"type": kinds[0] if kinds[0] in {int, float} else str}


def _switch(text: str) -> bool:
    if text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
    raise argparse.ArgumentTypeError(
        f"Truthy value expected: got {text} but expected one of yes/no, true/false, t/f, y/n, 1/0 "
        "(case insensitive)."
    )


# What was given


def options_from(
    given: argparse.Namespace,
    kind: type[T],
    other: Mapping[str, Any] | None = None,
    without: Any = (),
) -> T:
    """The dataclass with what was given; its own defaults, and `other`, for the rest."""
    values, chosen = vars(given), dict(other or {})
    for one in fields(kind):  # type: ignore[arg-type]
        about = one.metadata
        if "group" in about:
            chosen[one.name] = _group_from(given, about)
        elif "settings" in about:
            every = {**settings.settings_of(TrainJob), **settings.training_settings()}
            own = {name: values[name] for name in about["settings"] or every if name in values}
            if own and about["settings"]:
                settings.check_given(own)
            chosen[one.name] = own
        elif "asked" in about:
            chosen[one.name] = values.get(about["asked"], one.default)
        elif "help" in about and one.name not in without:
            name = one.name if about.get("positional") else about.get("flag") or one.name
            if name in values:
                value = values[name]
                chosen[one.name] = tuple(value) if isinstance(value, list) else value
    return kind(**chosen)


def _group_from(given: argparse.Namespace, about: Mapping[str, Any]) -> Any:
    kind, needed = about["group"], about["unless"]
    if needed:
        flag = next(one for one in fields(kind) if one.name == needed).metadata.get("flag")
        if not hasattr(given, flag or needed):
            return None
    return options_from(given, kind, about["other"], about["without"])


# A recipe


@dataclass(frozen=True)
class Asked:
    """What a recipe and flags ask for, looked at as far as nothing needs to be loaded."""

    job: TrainJob
    settings: dict[str, Any]
    """Of the training itself; only those that were given."""
    lines: Mapping[str, str] = field(default_factory=dict)
    """Name of a setting of the recipe -> "FILE:LINE", where no flag replaces it."""

    def config(self) -> ORPOConfig:
        """The settings of the training, resolved; loads transformers."""
        from orpo.config import ORPOConfig  # noqa: PLC0415 - loads torch

        return _placed(lambda: ORPOConfig(**self.settings), self.lines)

    def as_ours(self) -> dict[str, Any]:
        """The settings, lambda by our name: TRL's `beta` is none that SFT and DPO take."""
        own = {name: value for name, value in self.settings.items() if name != "beta"}
        return own if own == self.settings else {**own, "orpo_alpha": self.config().orpo_alpha}


def ask(
    recipe: str | None, given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> Asked:
    """Put a recipe, flags (other names are passed over) and defaults together; refuse by line."""
    of_job, of_training = settings.settings_of(TrainJob), settings.training_settings()
    flags = {name: v for name, v in given.items() if name in of_job or name in of_training}
    values, at = _read_recipe(recipe) if recipe else ({}, {})
    told = {**(defaults or {}), **values, **flags}
    held = told.get("eval_dataset") or told.get("held_out")
    if not held and flags.get("eval_strategy", "no") != "no":
        what = f"is {flags['eval_strategy']!r}, but nothing is held out to evaluate"
        fix = "Give --eval_dataset or --held_out, or leave it out."
        raise ConfigError(what, where="eval_strategy", fix=fix)
    if not held and not told.get("load_best_model_at_end"):  # a recipe may be used without
        told = {k: v for k, v in told.items() if k not in {"eval_strategy", "eval_steps"}}
    lines = {name: f"{recipe}:{line}" for name, line in at.items() if name not in flags}
    for name, line in lines.items():
        if told.get(name) == "FILL_IN":  # as `orpo convert-config` leaves it
            fix = "Write what the line beside it asks for, or give it as a flag."
            raise ConfigError("is still to be filled in", where=f"{line}, {name}", fix=fix)
    own = {name: value for name, value in told.items() if name not in of_job}
    _placed(lambda: settings.check_given(own), lines)
    rest = {name: value for name, value in told.items() if name in of_job}
    return Asked(_placed(lambda: TrainJob(**rest), lines), own, lines)


def given_settings(recipe: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the recipe and the flags say, and nothing else; flags win."""
    return {**(_read_recipe(recipe)[0] if recipe else {}), **given}


def _placed(make: Callable[[], T], lines: Mapping[str, str]) -> T:
    """What is made; an error about a setting of a recipe says in which line it stands."""
    try:
        return make()
    except ConfigError as error:
        line = lines.get(error.where.partition("[")[0])
        if line is None:
            raise
        raise ConfigError(error.what, where=f"{line}, {error.where}", fix=error.fix) from error


def _read_recipe(path: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Settings of a file, and the line of each."""
    file = Path(path)
    if not file.is_file():
        raise ConfigError("no such recipe", where=path, fix="Give a YAML file with settings.")
    try:
        text = read_text(file)
        values, node = load_yaml(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except DataError as error:
        raise ConfigError(error.what, where=path) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"broken YAML ({error.problem})", where=f"{path}:{line}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"broken YAML ({error})", where=path) from error
    if not isinstance(values, dict) or not isinstance(node, yaml.MappingNode):
        raise ConfigError("holds no settings", where=path, fix="Write one `name: value` per line.")
    lines = {str(key.value): key.start_mark.line + 1 for key, _ in node.value}
    values = found_names(values, file.parent)
    own = {name: value for name, value in values.items() if not str(name).startswith("_")}
    known = {*settings.settings_of(TrainJob), *settings.training_settings()}
    for name, value in own.items():
        if name not in known:
            from orpo.migrate.convert import suggestion  # noqa: PLC0415 - only where it is needed

            what = f"unknown setting {name!r}"
            fix = suggestion(str(name), known, value) or "See `orpo train --help`."
            raise ConfigError(what, where=f"{path}:{lines.get(str(name), 1)}", fix=fix)
    return own, lines
