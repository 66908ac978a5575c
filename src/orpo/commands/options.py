"""Settings from a recipe file and from flags: flags win, and every name and value is checked.

Nothing heavy is loaded until `Asked.config` is called.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

import yaml

from orpo.errors import ConfigError, DataError
from orpo.runs.reading import load_yaml, read_text
from orpo.settings import Setting, check_given, settings_of, training_settings
from orpo.train.job import TrainJob

if TYPE_CHECKING:
    from orpo.config import ORPOConfig

T = TypeVar("T")

_TRUE = ("yes", "true", "t", "y", "1")
_FALSE = ("no", "false", "f", "n", "0")


def known() -> frozenset[str]:
    """The names of all settings: of the job, and of the training itself."""
    return frozenset({*settings_of(TrainJob), *training_settings()})


def add_settings(parser: argparse._ActionsContainer) -> None:
    """A flag for every field of `TrainJob` and `ORPOConfig`, none of them required."""
    groups = {
        "the job": settings_of(TrainJob),
        "settings of the training (every TrainingArguments field)": training_settings(),
    }
    for title, settings in groups.items():
        group = parser.add_argument_group(title)
        for one in settings.values():
            _add(group, one)


def _add(group: Any, one: Setting) -> None:
    """The flag of a setting, as transformers' own parser would have it."""
    names = dict.fromkeys((f"--{one.name}", f"--{one.name.replace('_', '-')}"))
    about = {**one.about, "default": argparse.SUPPRESS, "dest": one.name}
    about["help"] = str(about.get("help", "")).replace("%", "%%")
    if one.name == "resume":  # alone, it means the newest checkpoint
        about |= {"nargs": "?", "const": "newest"}
    group.add_argument(*names, **_reading(one), **about)
    if one.type is bool and one.default is True:
        no = ["--" + f"no_{one.name}".replace("_", mark) for mark in "_-"]
        group.add_argument(*no, action="store_false", dest=one.name, default=argparse.SUPPRESS)


def _reading(one: Setting) -> dict[str, Any]:
    """How argparse reads a setting's value."""
    kinds = [kind for kind in get_args(one.type) or (one.type,) if kind is not NoneType]
    if get_origin(one.type) in {list, dict}:
        kinds = [one.type]
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, Enum):
            return {"choices": [str(member.value) for member in kind]}
        if get_origin(kind) is list and NoneType not in get_args(one.type):
            return {"nargs": "+", "type": str if str in kinds else get_args(kind)[0]}
        if get_origin(kind) is list and len(kinds) == 1:
            return {"nargs": "+", "type": get_args(kind)[0]}
    if kinds == [bool] or (bool in kinds and NoneType not in get_args(one.type)):
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


@dataclass(frozen=True)
class Asked:
    """What a recipe and flags ask for, looked at as far as nothing needs to be loaded.

    Attributes:
        job: Model, data and evidence.
        settings: Of the training itself; only those that were given.
        lines: Name of a setting of the recipe -> "FILE:LINE", where no flag replaces it.
    """

    job: TrainJob
    settings: dict[str, Any]
    lines: Mapping[str, str] = field(default_factory=dict)

    def config(self) -> ORPOConfig:
        """The settings of the training, resolved; loads transformers."""
        from orpo.config import ORPOConfig  # noqa: PLC0415 - loads torch

        return _placed(lambda: ORPOConfig(**self.settings), self.lines)


def ask(
    recipe: str | None, given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> Asked:
    """Put a recipe, flags and defaults together.

    Args:
        recipe: Path of a YAML file with fields of `TrainJob` and `ORPOConfig`, or None.
        given: Flags; other names are passed over.
        defaults: Settings that hold where neither says otherwise.

    Raises:
        ConfigError: An unknown field or a value that cannot be meant; names file, line and field.
    """
    found, flags = _read_recipe(recipe) if recipe else _Recipe(), _flags(given)
    settings = {**(defaults or {}), **found.values, **flags}
    held = settings.get("eval_dataset") or settings.get("held_out")
    if not held and flags.get("eval_strategy", "no") != "no":
        raise ConfigError(
            f"is {flags['eval_strategy']!r}, but nothing is held out to evaluate",
            where="eval_strategy",
            fix="Give --eval_dataset or --held_out, or leave it out.",
        )
    if not held and not settings.get("load_best_model_at_end"):  # a recipe may be used without
        settings = {k: v for k, v in settings.items() if k not in {"eval_strategy", "eval_steps"}}
    lines = {n: f"{recipe}:{at}" for n, at in found.lines.items() if n not in flags}
    of_job = settings_of(TrainJob)
    own = {name: value for name, value in settings.items() if name not in of_job}
    _placed(lambda: check_given(own), lines)
    rest = {name: value for name, value in settings.items() if name in of_job}
    return Asked(_placed(lambda: TrainJob(**rest), lines), own, lines)


def resolve_settings(
    recipe: str | None,
    given: argparse.Namespace | Mapping[str, Any],
    defaults: dict[str, Any] | None = None,
) -> tuple[TrainJob, ORPOConfig]:
    """The job and its settings, as `ask` takes them."""
    asked = ask(recipe, given if isinstance(given, Mapping) else vars(given), defaults)
    return asked.job, asked.config()


def given_settings(
    recipe: str | None, given: argparse.Namespace | Mapping[str, Any]
) -> dict[str, Any]:
    """What the recipe and the flags say, and nothing else; flags win."""
    flags = _flags(given if isinstance(given, Mapping) else vars(given))
    return {**(_read_recipe(recipe).values if recipe else {}), **flags}


def _flags(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in known()}


def _placed(make: Callable[[], T], lines: Mapping[str, str]) -> T:
    """What is made; an error about a setting of a recipe says in which line it stands."""
    try:
        return make()
    except ConfigError as error:
        line = lines.get(error.where.partition("[")[0])
        if line is None:
            raise
        raise ConfigError(error.what, where=f"{line}, {error.where}", fix=error.fix) from error


@dataclass(frozen=True)
class _Recipe:
    """Settings of a file, and the line of each."""

    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)


def _read_recipe(path: str) -> _Recipe:
    file = Path(path)
    if not file.is_file():
        raise ConfigError("no such recipe", where=path, fix="Give a YAML file with settings.")
    try:
        text = read_text(file)
        values = load_yaml(text)
        lines = _lines(text)
    except DataError as error:
        raise ConfigError(error.what, where=path) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"broken YAML ({error.problem})", where=f"{path}:{line}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"broken YAML ({error})", where=path) from error
    if not isinstance(values, dict):
        raise ConfigError("holds no settings", where=path, fix="Write one `name: value` per line.")
    own = {name: value for name, value in values.items() if not str(name).startswith("_")}
    for name, value in own.items():
        if name not in known():
            from orpo.migrate.hints import suggestion  # noqa: PLC0415 - only where it is needed

            raise ConfigError(
                f"unknown setting {name!r}",
                where=f"{path}:{lines.get(str(name), 1)}",
                fix=suggestion(str(name), known(), value) or "See `orpo train --help`.",
            )
    return _Recipe(own, lines)


def _lines(text: str) -> dict[str, int]:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {str(key.value): key.start_mark.line + 1 for key, _ in node.value}
