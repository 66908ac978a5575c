"""Settings from a recipe file and from flags: flags win, and every name and value is checked.

Nothing heavy is loaded until `Asked.config` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from orpo import settings
from orpo.errors import ConfigError, DataError
from orpo.runs.reading import load_yaml, read_text
from orpo.train.job import TrainJob

if TYPE_CHECKING:
    from orpo.config import ORPOConfig

T = TypeVar("T")


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
    own = {name: value for name, value in values.items() if not str(name).startswith("_")}
    known = {*settings.settings_of(TrainJob), *settings.training_settings()}
    for name, value in own.items():
        if name not in known:
            from orpo.migrate.hints import suggestion  # noqa: PLC0415 - only where it is needed

            what = f"unknown setting {name!r}"
            fix = suggestion(str(name), known, value) or "See `orpo train --help`."
            raise ConfigError(what, where=f"{path}:{lines.get(str(name), 1)}", fix=fix)
    return own, lines
