"""Reading files that anyone may have written: what is not as it should be is one line.

JSON and YAML are read to a size and a depth that none of our files comes near.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from yaml.parser import ParserError
from yaml.reader import ReaderError
from yaml.scanner import ScannerError

from orpo.errors import DataError
from orpo.runs.typed import LARGEST, kind_of

_LARGEST = 2**28  # bytes of a file of ours; answers and log-probabilities of many rows
_LARGEST_YAML = 2**20  # bytes of settings
_DEEPEST = 100  # levels of lists and mappings
_MOST_NODES = 100_000  # of YAML once its aliases are written out


def read_text(path: Path, largest: int = _LARGEST) -> str:
    """A text file of a size that can be meant."""
    try:
        if not path.is_file() and path.exists():
            raise DataError("is no file", where=str(path))
        size = path.stat().st_size
        if size > largest:
            raise DataError(f"has {size:,} bytes, which is too large", where=str(path))
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        what, fix = f"is not UTF-8 at byte {error.start}", "Convert it to UTF-8."
        raise DataError(what, where=str(path), fix=fix) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"cannot be read ({reason})", where=str(path)) from error


def parse_json(text: str | bytes) -> Any:
    """A JSON value."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"broken JSON: {error.msg}") from error
    except RecursionError:
        raise ValueError("nested too deeply") from None
    brackets = (b"[", b"{") if isinstance(text, bytes) else ("[", "{")
    if sum(map(text.count, brackets)) > _DEEPEST and _depth(value) > _DEEPEST:  # type: ignore[arg-type]
        raise ValueError("nested too deeply")
    return value


def read_json(path: Path) -> Any:
    """The JSON value in a file."""
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        cause = error.__cause__
        line = f":{cause.lineno}" if isinstance(cause, json.JSONDecodeError) else ""
        raise DataError(str(error), where=f"{path}{line}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"expected an object, found {kind_of(value)}", where=str(path))
    return value


def load_yaml(text: str) -> Any:
    """What YAML says, as `yaml.safe_load` reads it."""
    if len(text) > _LARGEST_YAML:
        raise yaml.YAMLError(f"has {len(text):,} characters, which is too large")
    try:
        with suppress(ReaderError, ScannerError, ParserError):  # the loader has better words for it
            _bounded(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - it is a SafeLoader
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # A tag, or what looks like a date or a number, on what is none.
        reason = str(error) or type(error).__name__
        raise yaml.YAMLError(f"a value cannot be meant ({reason})") from error


def _depth(value: Any) -> int:
    """Levels of lists and mappings, no more of them than have to be looked at."""
    level, depth = [value], 0
    while level and depth <= _DEEPEST:
        holders = [one for one in level if isinstance(one, dict | list)]
        level = [x for one in holders for x in (one.values() if isinstance(one, dict) else one)]
        depth += 1
    return depth


class _Loader(yaml.SafeLoader):
    """Refuses a name that stands twice in one mapping: one of its values would be dropped."""

    def construct_yaml_int(self, node: Any) -> int:
        found: int = super().construct_yaml_int(node)
        if abs(found) >= LARGEST:
            raise ValueError("too large a number")
        return found

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"{key.value!r} stands here twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return node


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _bounded(text: str) -> None:
    """Walk over the YAML without building anything, and count what it would become."""
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
    open_, anchors = [1], dict[str | None, int]()  # nodes of each open level; of what has a name
    names: list[str | None] = [None]
    event: Any
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append(1)
            names.append(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            nodes, name = open_.pop(), names.pop()
            anchors |= {name: nodes} if name else {}
            open_[-1] += nodes
        elif isinstance(event, yaml.ScalarEvent):
            open_[-1] += 1
            anchors |= {event.anchor: 1} if event.anchor else {}
        elif isinstance(event, yaml.AliasEvent):
            endless = event.anchor in names  # it stands within itself
            open_[-1] += _MOST_NODES if endless else anchors.get(event.anchor, 1)
        if len(open_) > _DEEPEST or open_[-1] > _MOST_NODES:
            mark = event.start_mark
            why = "is nested too deeply" if len(open_) > _DEEPEST else "grows without bound"
            raise yaml.MarkedYAMLError(problem=why, problem_mark=mark)
