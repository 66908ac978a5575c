"""Values out of files that anyone may have edited, and their texts as a reader likes them."""

import json
import math
from typing import Any

from orpo.quantities import as_count, number

_PICTURES = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    **dict.fromkeys([*range(0x7F, 0xA0), *range(0xD800, 0xE000)], "\ufffd"),
    # Orders to write backwards: with them a text would not be read as it is.
    **dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd"),
}


def count(value: object) -> int | None:
    """The count that a value is; None if it is none."""
    found = number(value)
    return int(found) if found is not None and math.isfinite(found) and found >= 0 else None


def mapping(value: object) -> dict[str, Any]:
    """The mapping that a value is, its keys as text; an empty one otherwise."""
    return {str(k): v for k, v in value.items()} if isinstance(value, dict) else {}


def records(value: object) -> list[dict[str, Any]]:
    """The mappings among the entries of a list."""
    return [mapping(one) for one in entries(value) if isinstance(one, dict)]


def entries(value: object) -> list[Any]:
    """The entries of a list; none of anything else."""
    return value if isinstance(value, list) else []


def shortened(text: str, limit: int) -> str:
    """Text cut to a number of characters; says how many are missing."""
    left = len(text) - limit
    return f"{text[:limit]} … ({as_count(left, 'further character')})" if left > 0 else text


def text_of(value: object) -> str:
    """The text of a string, a message, a list of messages or of content parts."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list):
        return "\n".join(map(text_of, value))
    if isinstance(value, dict):
        for name in ("content", "text"):
            if name in value:
                return text_of(value[name])
    return json.dumps(value, ensure_ascii=False, default=str)


def visible(text: str) -> str:
    """Text with control characters shown by their pictures, and what UTF-8 cannot hold replaced."""
    return text.replace("\r\n", "\n").translate(_PICTURES)
