"""What single texts look like: markup of chat templates, refusals, first words, scripts, breakage.

The expressions that tell are data, in `texts.toml`.
"""

import re
import tomllib
import unicodedata
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

_KNOWN: dict[str, Any] = tomllib.loads(
    Path(__file__).with_name("texts.toml").read_text(encoding="utf-8")
)
_SIGNS = _KNOWN["signs"]
_MARKUP = {name: re.compile(pattern) for name, pattern in _KNOWN["markup"].items()}
_SPECIAL = re.compile(r"<\|[A-Za-z][A-Za-z0-9_]{1,30}\|>")

_READ = 240  # characters of an answer that are looked at for a refusal
_REFUSAL = re.compile(
    "|".join(_KNOWN["refusals"]["patterns"])
    .replace("{CANNOT}", _KNOWN["refusals"]["CANNOT"])
    .replace("{HELP}", _KNOWN["refusals"]["HELP"])
)

_LETTERS = {name: re.compile(f"[{span}]+") for name, span in _KNOWN["scripts"].items()}
_LATIN, _CHINESE, _JAPANESE = list(_LETTERS)[:3]
_OTHER = re.compile(f"[{''.join(list(_KNOWN['scripts'].values())[1:])}]")
_WORD_OF = {_LATIN: 5, _CHINESE: 2}
"""Letters of a word: a Chinese word takes two characters where an English one takes five."""

# Code, links and formulas are in Latin letters whatever the language.
_NOT_PROSE = re.compile(r"```.*?(?:```|\Z)|https?://\S+|\\[a-zA-Z]+|\$[^$\n]*\$", re.DOTALL)
_PROSE, _ENOUGH, _CLEAR, _QUOTED = 500, 20, 0.8, 5


def markup_in(text: str) -> list[str]:
    """The families of templates whose markup a text holds."""
    found = []
    if any(sign in text for sign in _SIGNS["markup"]):
        found = [name for name, pattern in _MARKUP.items() if pattern.search(text)]
        if not found and _SPECIAL.search(text):
            found = ["special tokens"]
    # "</s>" at its end or "<s>" at its beginning; struck-through HTML has both within.
    bare = text.strip()
    closes = bare.endswith("</s>") and bare.count("<s>") == bare.startswith("<s>")
    if closes or (bare.startswith("<s>") and bare.count("</s>") == bare.endswith("</s>")):
        found.append("sentence tags")
    return found


def about_markup(text: str) -> str:
    """The text about its first markup."""
    places = [m.start() for pattern in _MARKUP.values() if (m := pattern.search(text))]
    start = max(0, min(places, default=len(text) - 120) - 60)
    return text[start : start + 200]


def refuses(answer: str) -> bool:
    """Whether an answer begins as a refusal, or with what chat models say of themselves."""
    opening = answer[:_READ].replace("’", "'").lower()
    return any(sign in opening for sign in _SIGNS["refusals"]) and bool(_REFUSAL.search(opening))


def opening_of(answer: str) -> str:
    """The first three words of an answer, or four characters where words have no spaces."""
    parts = answer[:120].casefold().split()[:3]
    if parts and not parts[0].isascii() and len(parts[0]) > 8:
        return parts[0][:4]
    return " ".join(parts)


class Script(NamedTuple):
    """The script of a text."""

    name: str  # in words; "none" if there are no letters
    clear: bool  # it is long enough and in one script: another one is another language


def script_of(text: str) -> Script:
    """The script that most words of a text's beginning are in.

    Enough to tell Chinese from English, at no cost; English and French are not told apart.
    """
    prose = text[:_PROSE]
    if any(sign in prose for sign in _SIGNS["not_prose"]):
        prose = _NOT_PROSE.sub(" ", prose)
    if prose.isascii() or not _OTHER.search(prose):
        latin = _LETTERS[_LATIN]
        letters = _count(latin, prose[:100])
        letters = letters if letters >= _ENOUGH else _count(latin, prose)
        return Script(_LATIN if letters else "none", letters >= _ENOUGH)
    counts = {name: _count(found, prose) for name, found in _LETTERS.items()}
    letters = sum(counts.values())
    if not letters:
        return Script("none", False)
    if counts[_JAPANESE] >= 0.1 * (counts[_JAPANESE] + counts[_CHINESE]):
        counts[_JAPANESE] += counts.pop(_CHINESE)
    sizes = {name: n / _WORD_OF.get(name, 3) for name, n in counts.items()}
    name = max(sizes, key=lambda one: sizes[one])
    clear = letters >= _ENOUGH and sizes[name] >= _CLEAR * sum(sizes.values())
    if name == _LATIN:  # a few words of another language about code, names and formulas
        clear = clear and letters - counts[name] < _QUOTED
    return Script(name, clear)


def _count(letters: re.Pattern[str], text: str) -> int:
    return sum(map(len, letters.findall(text)))


_LEAST_UNITS = 12  # words, or characters where words have no spaces: shorter texts may repeat
_NOTHING_NEW = 0.5  # share of distinct runs of three
_LEGIBLE = 0.4  # share of letters, digits and spaces
_MIXED = 0.35  # share of neighbouring letters in different scripts


def broken(answer: str) -> str:
    """What of an answer is no text, such as "repetition"; empty if it reads as one."""
    text = answer.strip().removesuffix("\ufffd")  # a limit may cut through the last character
    if not text:
        return "no text"
    shown = [c for c in _RULED.sub("", text) if c not in "\n\t\r"]
    kinds = [unicodedata.category(c) for c in shown]
    if "\ufffd" in text or _MISREAD.search(text) or not _NO_TEXT.isdisjoint(kinds):
        return "invalid characters"
    if markup_in(text):
        return "a chat template's markup"
    if not _NUMBER.fullmatch(text) and _repeats(text):
        return "repetition"
    signs = Counter(kinds)
    closed = signs["Ps"] == signs["Pe"]  # brackets of code, which are closed
    legible = sum(kind[0] in "LMNZ" or (closed and kind in ("Ps", "Pe")) for kind in kinds)
    legible += sum(c >= _PICTURES and kind == "So" for c, kind in zip(shown, kinds, strict=True))
    letters = [_script_of_letter(c) for c in text if c.isalpha()]
    mixed = sum(a != b for a, b in pairwise(letters))
    if legible < _LEGIBLE * len(kinds) or mixed > max(3, _MIXED * len(letters)):
        return "jumbled characters"
    return ""


_NO_TEXT = {"Cc", "Co", "Cs"}  # control, private use, surrogates
_PICTURES = "\u2600"  # from here on: emoji and the like
_NUMBER = re.compile(r"[-+]?\d[\d.,:/-]{,11}")  # 1000000 is no loop
_RULED = re.compile(r"^\|[|: -]*-{3}[|: -]*$", re.MULTILINE)  # below the head of a table
_MISREAD = re.compile(r"Ã[\x80-¿]|â€[\x80-¿™œ¦š˜]|ï¿½")  # UTF-8 read as another encoding


def _repeats(text: str) -> bool:
    """Whether most of a text was in it before: loops, of words or of characters."""
    words = text.split()
    units = words if len(words) > len(text) / 20 and len(words) > 1 else list(text)
    if len(units) < _LEAST_UNITS:
        return len(units) >= 5 and 2 * len(set(units)) < len(units)
    runs = list(zip(units, units[1:], units[2:], strict=False))
    return len(set(runs)) < _NOTHING_NEW * len(runs)


def _script_of_letter(letter: str) -> str:
    """The script of a letter; Japanese is written in two."""
    name = next((name for name, found in _LETTERS.items() if found.match(letter)), "other")
    return _CHINESE if name == _JAPANESE else name
