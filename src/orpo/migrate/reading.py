"""A file of another trainer's settings as keys with their lines, and whose settings they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from orpo.errors import ConfigError, DataError
from orpo.migrate.ledger import Key
from orpo.migrate.rules import PEERS
from orpo.runs import reading

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_NESTED = ("trl", "datasets", "test_datasets")
"""Blocks whose parts are settings of their own; other blocks are values."""
_ACCELERATE = {"compute_environment", "distributed_type", "num_machines"}
_SCRIPTS = {
    ".py": ("a Python script", "A script for TRL runs with two changed imports"),
    ".sh": ("a shell script", "Write the flags of its command into a YAML file"),
    ".bash": ("a shell script", "Write the flags of its command into a YAML file"),
}


def read_document(path: Path, asked: str | None) -> tuple[str, list[Key]]:
    """Whose settings a file holds, and its keys; "" for those of `accelerate launch`.

    Raises:
        ConfigError: It cannot be read, or could be of several trainers, or of none.
    """
    suffix = path.suffix.lower()
    if suffix in _SCRIPTS:
        kind, instead = _SCRIPTS[suffix]
        raise ConfigError(
            f"is {kind}, and settings are read from YAML and JSON",
            where=str(path),
            fix=f"{instead}: docs/migrate.md shows how.",
        )
    if suffix not in {".yaml", ".yml", ".json"}:
        raise ConfigError(
            f"unknown kind of file {suffix or path.name!r}",
            where=str(path),
            fix="Use .yaml or .json.",
        )
    keys = read_mapping(path)
    names = {key.name.partition(".")[0].partition("[")[0] for key in keys}
    if len(names & _ACCELERATE) > 1:
        return "", keys
    return asked or _by_names(names, path), keys


def _by_names(names: Iterable[str], path: Path) -> str:
    marks = {peer: len({*table["marks"]} & {*names}) for peer, table in PEERS.items()}
    most = max(marks.values())
    best = [peer for peer, count in marks.items() if count == most]
    if most == 0:
        raise ConfigError(
            "holds no key by which its trainer could be told",
            where=str(path),
            fix=f"Say it: --from {'|'.join(PEERS)}.",
        )
    if len(best) > 1:
        several = " or ".join(PEERS[peer]["called"] for peer in best)
        raise ConfigError(
            f"could be of {several}", where=str(path), fix=f"Say it: --from {best[0]}."
        )
    return best[0]


def read_mapping(path: Path) -> list[Key]:
    """The keys of a YAML or JSON file, in order.

    Raises:
        ConfigError: It is broken, or holds no settings; names the line.
    """
    if not path.is_file():
        raise ConfigError("no such file", where=str(path), fix="Give a file with settings.")
    try:
        text = reading.read_text(path)
        values = reading.load_yaml(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        json.dumps(values, default=str, skipkeys=True)  # what holds itself is refused
    except DataError as error:
        raise ConfigError(error.what, where=str(path)) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"cannot be read ({error.problem})", where=f"{path}:{line}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot be read ({error})", where=str(path)) from error
    if not isinstance(node, yaml.MappingNode) or not isinstance(values, dict):
        raise ConfigError("holds no settings", where=str(path), fix="Give `name: value` per line.")
    return _keys(node, values, path, "")


def _keys(node: yaml.MappingNode, values: Any, path: Path, prefix: str) -> list[Key]:
    found = []
    for name_node, value_node in node.value:
        name, line = str(name_node.value), name_node.start_mark.line + 1
        value: Any = values.get(name, values.get(_scalar(name)))
        full = f"{prefix}{name}"
        nested = not prefix and name in _NESTED
        if nested and isinstance(value_node, yaml.MappingNode):
            found += _keys(value_node, value, path, f"{full}.")
        elif nested and _holds_mappings(value_node):
            for i, part in enumerate(value_node.value):
                found += _keys(part, value[i], path, f"{full}[{i}].")
        else:
            found.append(Key(full, _scalar(value), f"{path}:{line}"))
    return found


def _holds_mappings(node: yaml.Node) -> bool:
    parts = node.value if isinstance(node, yaml.SequenceNode) else []
    return bool(parts) and all(isinstance(part, yaml.MappingNode) for part in parts)


def _scalar(value: Any) -> Any:
    """A value as it is meant: YAML reads 1e-5 as a text."""
    if isinstance(value, list):
        return [_scalar(part) for part in value]
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
