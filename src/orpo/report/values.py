"""Numbers and texts as a reader likes them, and values out of files that anyone may have edited."""

import json
import math
import re
from collections.abc import Iterable
from typing import Any

_SPACE = "\u00a0"
POINTS = f"{_SPACE}pp"
"""Percentage points, behind a number."""
_PICTURES = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    **dict.fromkeys([*range(0x7F, 0xA0), *range(0xD800, 0xE000)], "\ufffd"),
    # Orders to write backwards: with them a text would not be read as it is.
    **dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd"),
}


def number(value: object) -> float | None:
    """The number that a value is, NaN and infinity among them; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


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


def minus(text: str) -> str:
    """With a minus sign where there was a hyphen in front of a digit."""
    return re.sub(r"-(?=\d)", "−", text)


def as_number(value: float | None) -> str:
    """Four significant digits: 0.0213, −1.234, 12,346, 8e-06."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
    return text.replace("-", "−", 1) if value < 0 else text


def as_percent(share: float | None) -> str:
    """A share as 93.1 %; what is no share stays a number."""
    if share is None or not 0 <= share <= 1:
        return as_number(share)
    return f"{100 * share:.1f}{_SPACE}%"


def as_share(share: float) -> str:
    """As `as_percent`, but one that is not 0 does not look like 0."""
    return f"< 0.1{_SPACE}%" if 0 < share < 0.0005 else as_percent(share)


def as_pair(first: float, second: float) -> tuple[str, str]:
    """Two numbers to be compared, with the same number of decimals: 2.08 and 0.97."""
    big = max(abs(first), abs(second))
    if not 1e-3 <= big < 1e4:
        return as_number(first), as_number(second)
    decimals = max(0, 2 - math.floor(math.log10(big)))
    shown = f"{first:.{decimals}f}", f"{second:.{decimals}f}"
    if shown[0] == shown[1] and first != second:
        return as_number(first), as_number(second)
    return shown[0].replace("-", "−"), shown[1].replace("-", "−")


def as_change(before: float | None, after: float | None, *, share: bool) -> str:
    """What was gained, with its sign; shares in percentage points."""
    if before is None or after is None or not math.isfinite(after - before):
        return "–"
    change = after - before
    sign = "+" if change > 0 else "−" if change < 0 else "±"
    if share:
        return f"{sign}{100 * abs(change):.1f}{POINTS}"
    return sign + as_number(abs(change))


def as_count(amount: float, noun: str) -> str:
    """1 pair, 2 pairs, 12,000 pairs."""
    plural = noun if amount == 1 else noun[:-1] + "ies" if noun.endswith("y") else f"{noun}s"
    return f"{amount:,.0f} {plural}"


def thousands(value: float, _: object = None) -> str:
    """A count, also at an axis: 12,000."""
    return f"{value:,.0f}"


def as_duration(seconds: float) -> str:
    """37 s, 4 min 20 s, 3 h 5 min."""
    total = round(seconds)
    hours, minutes = total // 3600, total % 3600 // 60
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {total % 60} s" if minutes else f"{total} s"


def signed(value: float, decimals: int = 1) -> str:
    """A difference with its sign; "not known" if it is not finite."""
    if not math.isfinite(value):
        return "not known"
    sign = "+" if value > 0 else "−" if value < 0 else "±"
    return f"{sign}{abs(value):.{decimals}f}"


def joined(parts: Iterable[object]) -> str:
    """One, two and three."""
    words = list(map(str, parts))
    return " and ".join([*([", ".join(words[:-1])] if words[1:] else []), *words[-1:]])


def sentence(text: str) -> str:
    """With a capital in front and one full stop behind; nothing stays nothing."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def lowered(title: str) -> str:
    """A title as it reads within a sentence; abbreviations keep their capitals."""
    return title[:1].lower() + title[1:] if title[1:2].islower() else title


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
