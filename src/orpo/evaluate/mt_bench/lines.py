"""Lines of JSON as FastChat writes them, read with a word on what is wrong, and where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orpo.errors import DataError
from orpo.runs import parse_json

__all__ = ["field", "question_id", "read_lines", "turns"]


def read_lines(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a JSONL file, with its place for messages.

    Raises:
        DataError: The file is missing or unreadable, or a line is no JSON object.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"unreadable ({error})"
        raise DataError(reason, where=str(path), fix="Name a JSONL file.") from error
    # Not splitlines: JSON leaves U+2028 and its like inside of a string as they are.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = parse_json(line)
        except ValueError as error:
            fix = "Repair or remove the line."
            raise DataError(f"no JSON ({error})", where=where, fix=fix) from error
        if not isinstance(row, dict):
            raise DataError("no JSON object", where=where, fix="Give one object a line.")
        yield where, row


def field(row: Mapping[str, Any], name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A field that has to be there.

    Raises:
        DataError: It is missing or of another kind.
    """
    value = row.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        problem = "is missing" if name not in row else f"is no {_called(kind)}"
        fix = "Give a file in FastChat's format."
        raise DataError(f"field '{name}' {problem}", where=where, fix=fix)
    return value


def question_id(row: Mapping[str, Any], where: str) -> int | str:
    """The question's number; a text where it is none."""
    found: int | str = field(row, "question_id", (int, str), where)
    return found


def turns(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The answers of the first choice, one for each turn: FastChat's `choices[0].turns`.

    Raises:
        DataError: There is no such list of texts.
    """
    choices = field(row, "choices", list, where)
    first = choices[0] if choices and isinstance(choices[0], dict) else {}
    texts = field(first, "turns", list, where)
    if not texts or not all(isinstance(text, str) for text in texts):
        fix = "Give a file in FastChat's format."
        raise DataError("field 'turns' is no list of texts", where=where, fix=fix)
    return tuple(texts)


def _called(kind: type | tuple[type, ...]) -> str:
    names = {str: "text", int: "number", float: "number", list: "list", dict: "object"}
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(dict.fromkeys(names[one] for one in kinds))
