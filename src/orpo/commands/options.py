"""Settings from a recipe file and from flags: flags win, and every name is checked."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from orpo.config import ORPOConfig
from orpo.errors import ConfigError, DataError
from orpo.jobs import TrainJob
from orpo.migrate.hints import suggestion
from orpo.runs import load_yaml, read_text

__all__ = ["add_settings", "given_settings", "resolve_settings"]

_JOB = {f.name for f in fields(TrainJob)}
_CONFIG = {f.name for f in fields(ORPOConfig) if f.init}


def add_settings(parser: argparse.ArgumentParser) -> None:
    """A flag for every field of `TrainJob` and `ORPOConfig`, none of them required."""
    described = HfArgumentParser((TrainJob, ORPOConfig), add_help=False, allow_abbrev=False)
    groups = {
        True: parser.add_argument_group("the job"),
        False: parser.add_argument_group(
            "settings of the training (every TrainingArguments field)"
        ),
    }
    for action in described._actions:
        action.default = argparse.SUPPRESS
        action.required = False
        if action.help:
            action.help = action.help.replace("%", "%%").replace("%%(default)s", "%(default)s")
            action.help = action.help.replace("(default: %(default)s)", "")
        if action.type is dict:
            action.type = str  # JSON
        if action.dest == "resume":  # alone, it means the newest checkpoint
            action.nargs, action.const = "?", "newest"
        groups[action.dest in _JOB]._add_action(action)


def resolve_settings(
    recipe: str | None, given: argparse.Namespace, defaults: dict[str, Any] | None = None
) -> tuple[TrainJob, ORPOConfig]:
    """The job and its settings.

    Args:
        recipe: Path of a YAML file with fields of `TrainJob` and `ORPOConfig`, or None.
        given: Parsed flags; only what was given.
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
    try:
        config = ORPOConfig(**{k: v for k, v in settings.items() if k in _CONFIG})
        job = TrainJob(**{k: v for k, v in settings.items() if k in _JOB})
    except ConfigError as error:
        name = error.where.partition("[")[0]
        if name not in found.lines or name in flags:
            raise
        where = f"{recipe}:{found.lines[name]}, {error.where}"
        raise ConfigError(error.what, where=where, fix=error.fix) from error
    return job, config


def given_settings(recipe: str | None, given: argparse.Namespace) -> dict[str, Any]:
    """What the recipe and the flags say, and nothing else; flags win.

    Args:
        recipe: As in `resolve_settings`.
        given: As in `resolve_settings`.

    Raises:
        ConfigError: An unknown field in the recipe.
    """
    return {**(_read_recipe(recipe).values if recipe else {}), **_flags(given)}


def _flags(given: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(given).items() if name in _JOB | _CONFIG}


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
        _require_known(name, value, f"{path}:{lines.get(str(name), 1)}")
    return _Recipe(own, lines)


def _lines(text: str) -> dict[str, int]:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {str(key.value): key.start_mark.line + 1 for key, _ in node.value}


def _require_known(name: Any, value: Any, where: str) -> None:
    if name in _JOB | _CONFIG:
        return
    raise ConfigError(
        f"unknown setting {name!r}",
        where=where,
        fix=suggestion(str(name), _JOB | _CONFIG, value) or "See `orpo train --help`.",
    )
