"""The commands of a shell script as keys: variables and sums are put in, nothing is run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo.errors import ConfigError
from orpo.migrate.ledger import Computed, Key
from orpo.migrate.reading import read_text, scalar

__all__ = ["Command", "read_commands"]

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}|\$(\w+)")
_SUM = re.compile(r"\$\(\(\s*([\d\s+*/-]+?)\s*\)\)|\$\(\s*expr\s+([\d\s+*/\\-]+?)\s*\)")
_ASSIGNED = re.compile(r"([A-Za-z_]\w*)=(.*)", re.S)
_STEPS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
}


@dataclass
class Command:
    """One command.

    Attributes:
        words: Those ahead of the first flag of its own: `swift rlhf`, `python orpo.py`.
        keys: Flags by name, without dashes.
        launcher: Flags of what starts it (`accelerate launch`, `torchrun`).
        environment: Variables that are set for it.
    """

    words: list[str]
    keys: list[Key] = field(default_factory=list)
    launcher: list[Key] = field(default_factory=list)
    environment: list[Key] = field(default_factory=list)


_Word = tuple[str, int]
"""A word and its line."""


def read_commands(path: Path) -> list[Command]:
    """The commands of a script that have flags, in order.

    Raises:
        ConfigError: Quotation marks that do not match.
    """
    variables: dict[str, str] = {}
    exported: list[Key] = []
    found = []
    for line in _lines(path, variables):
        exports = line[0][0] == "export"
        words = line[exports:]
        assigned = []
        while words and (match := _ASSIGNED.fullmatch(words[0][0])):
            assigned.append(Key(match[1], _value([match[2]]), f"{path}:{words[0][1]}"))
            variables[match[1]] = match[2]
            del words[0]
        if exports:
            exported += assigned
        if words and any(word.startswith("--") for word, _ in words):
            command = _command(words, path)
            command.environment = [*exported, *assigned]
            found.append(command)
    return found


def _lines(path: Path, variables: dict[str, str]) -> Iterator[list[_Word]]:
    """The words of each logical line, variables put in; `variables` may grow in between."""
    words: list[_Word] = []
    pending, began = "", 0
    for number, physical in enumerate(read_text(path).splitlines(), start=1):
        began = began if pending else number
        pending += physical
        goes_on = pending.endswith("\\")
        text = pending[:-1] if goes_on else pending
        try:
            parts = shlex.split(_put_in(text, variables), comments=True)
        except ValueError:  # a quotation that goes on in the next line
            pending += "\n"
            continue
        words += [(part, began) for part in parts]
        pending = ""
        if not goes_on and words:
            yield words
            words = []
    if pending.strip():
        raise ConfigError("a quotation mark is never closed", where=f"{path}:{began}")
    if words:
        yield words


def _put_in(text: str, variables: dict[str, str]) -> str:
    def variable(match: re.Match[str]) -> str:
        name = match[1] or match[3]
        return variables.get(name, match[2] if match[2] is not None else match[0])

    return _SUM.sub(_summed, _VARIABLE.sub(variable, text))


def _summed(match: re.Match[str]) -> str:
    """Whole numbers with signs of one rank between them, from left to right; else as it stands."""
    parts = re.findall(r"\d+|[-+*/]", match[1] or match[2])
    numbers, signs = parts[::2], parts[1::2]
    ranked = {sign in "*/" for sign in signs}
    if len(ranked) > 1 or len(parts) % 2 == 0 or not all(map(str.isdigit, numbers)):
        return match[0]
    total = int(numbers[0])
    for sign, number in zip(signs, map(int, numbers[1:]), strict=True):
        if sign == "/" and number == 0:
            return match[0]
        total = _STEPS[sign](total, number)
    return str(total)


def _command(words: list[_Word], path: Path) -> Command:
    """Flags ahead of the program belong to what starts it."""
    starts = words[0][0] in {"accelerate", "torchrun", "deepspeed"}
    own = next((i for i, (word, _) in enumerate(words) if word.endswith(".py")), 0) if starts else 0
    first = next((i for i in range(own, len(words)) if words[i][0].startswith("--")), len(words))
    command = Command([word for word, _ in words[:first]])
    command.launcher = list(_flags(words[:own], path)) if own else []
    command.keys = list(_flags(words[first:], path))
    return command


def _flags(words: list[_Word], path: Path) -> Iterator[Key]:
    name, values, line = "", [], 0
    for word, number in [*words, ("--", 0)]:
        if not word.startswith("--"):
            values.append(word)
            continue
        if name:
            yield Key(name, _value(values), f"{path}:{line}")
        name, _, value = word[2:].partition("=")
        values, line = ([value] if "=" in word else []), number


def _value(words: list[str]) -> Any:
    if not words:
        return True
    for word in words:
        if "$" in word or "`" in word:
            return Computed(" ".join(words))
    if len(words) > 1:
        return [scalar(word) for word in words]
    if words[0].startswith(("{", "[")):
        try:
            return json.loads(words[0])
        except json.JSONDecodeError:
            return words[0]
    return scalar(words[0])
