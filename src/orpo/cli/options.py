"""Settings from a recipe file and from flags: flags win, and every name is checked."""

from __future__ import annotations

import argparse
import difflib
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from transformers import HfArgumentParser

from orpo.config import ORPOConfig
from orpo.errors import ConfigError, DataError
from orpo.jobs import TrainJob
from orpo.run_folder import load_yaml, read_text

__all__ = ["add_settings", "given_settings", "resolve_settings"]

_JOB = {f.name for f in fields(TrainJob)}
_CONFIG = {f.name for f in fields(ORPOConfig) if f.init}
# Not `Field.type`: HfArgumentParser replaces it.
_TYPES = {
    name: hint.__name__ if isinstance(hint, type) else str(hint)
    for kind in (TrainJob, ORPOConfig)
    for name, hint in get_type_hints(kind).items()
}


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
    settings = {**(defaults or {}), **given_settings(recipe, given)}
    for name in ("eval_strategy", "eval_steps"):  # nothing to evaluate on
        if name in settings and not (settings.get("eval_dataset") or settings.get("held_out")):
            settings.pop(name)
    job = TrainJob(**{k: v for k, v in settings.items() if k in _JOB})
    config = ORPOConfig(**{k: v for k, v in settings.items() if k in _CONFIG})
    return job, config


def given_settings(recipe: str | None, given: argparse.Namespace) -> dict[str, Any]:
    """What the recipe and the flags say, and nothing else; flags win.

    Args:
        recipe: As in `resolve_settings`.
        given: As in `resolve_settings`.

    Raises:
        ConfigError: An unknown field in the recipe.
    """
    flags = {name: value for name, value in vars(given).items() if name in _JOB | _CONFIG}
    return {**(_read_recipe(recipe) if recipe else {}), **flags}


def _read_recipe(path: str) -> dict[str, Any]:
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
    return {
        name: _typed(name, value, f"{path}:{lines.get(name, 1)}")
        for name, value in values.items()
        if not str(name).startswith("_") and _known(str(name), f"{path}:{lines.get(name, 1)}")
    }


def _lines(text: str) -> dict[Any, int]:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {key.value: key.start_mark.line + 1 for key, _ in node.value}


def _known(name: str, where: str) -> bool:
    if name in _JOB | _CONFIG:
        return True
    near = difflib.get_close_matches(name, _JOB | _CONFIG, n=1)
    raise ConfigError(
        f"unknown setting {name!r}",
        where=where,
        fix=f"Did you mean {near[0]!r}?" if near else "See `orpo train --help`.",
    )


def _typed(name: str, value: Any, where: str) -> Any:
    """YAML reads 1e-5 as a text; a number is meant."""
    annotation = _TYPES[name]
    if isinstance(value, str) and "str" not in annotation:
        kind = float if "float" in annotation else int if "int" in annotation else None
        if kind is not None:
            try:
                return kind(value)
            except ValueError as error:
                raise ConfigError(
                    f"expected a number for {name!r}, found {value!r}", where=where
                ) from error
    if isinstance(value, str) and annotation == "bool":
        raise ConfigError(f"expected true or false for {name!r}, found {value!r}", where=where)
    return value
