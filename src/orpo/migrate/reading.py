"""Files of settings as keys: YAML and JSON with the line of each; scripts are read elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from orpo import runs
from orpo.errors import ConfigError, DataError
from orpo.migrate.ledger import Key
from orpo.runs import load_yaml

__all__ = ["read_mapping", "read_text", "scalar"]

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_NESTED = ("trl", "datasets", "test_datasets")
"""Blocks whose parts are settings of their own; other blocks are values."""


def read_text(path: Path) -> str:
    """A text file.

    Raises:
        ConfigError: It is not there, or not UTF-8.
    """
    if not path.is_file():
        raise ConfigError("no such file", where=str(path), fix="Give a file with settings.")
    try:
        return runs.read_text(path)
    except DataError as error:
        raise ConfigError(error.what, where=str(path)) from error


def read_mapping(path: Path) -> list[Key]:
    """The keys of a YAML or JSON file, in order.

    Raises:
        ConfigError: It is broken, or holds no settings; names the line.
    """
    text = read_text(path)
    try:
        values = load_yaml(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        json.dumps(values, default=str, skipkeys=True)  # what holds itself is refused
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"cannot be read ({error.problem})", where=f"{path}:{line}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot be read ({error})", where=str(path)) from error
    if not isinstance(node, yaml.MappingNode) or not isinstance(values, dict):
        raise ConfigError("holds no settings", where=str(path), fix="Give `name: value` per line.")
    return _keys(node, values, path, "")


def scalar(value: Any) -> Any:
    """A value as it is meant: YAML reads 1e-5 as a text, and so does a shell every number."""
    if isinstance(value, list):
        return [scalar(part) for part in value]
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if text in {"None", "null"}:  # "none" is a logger, and a kind of schedule
        return None
    if not _NUMBER.fullmatch(text):
        return value
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)


def _keys(node: yaml.MappingNode, values: Any, path: Path, prefix: str) -> list[Key]:
    found = []
    for name_node, value_node in node.value:
        name, line = str(name_node.value), name_node.start_mark.line + 1
        value: Any = values.get(name, values.get(scalar(name)))
        full = f"{prefix}{name}"
        if not prefix and name in _NESTED and isinstance(value_node, yaml.MappingNode):
            found += _keys(value_node, value, path, f"{full}.")
        elif not prefix and name in _NESTED and _holds_mappings(value_node):
            for i, part in enumerate(value_node.value):
                found += _keys(part, value[i], path, f"{full}[{i}].")
        else:
            found.append(Key(full, scalar(value), f"{path}:{line}"))
    return found


def _holds_mappings(node: yaml.Node) -> bool:
    parts = node.value if isinstance(node, yaml.SequenceNode) else []
    return bool(parts) and all(isinstance(part, yaml.MappingNode) for part in parts)
