"""In which script a text is written: enough to tell Chinese from English, at no cost.

Languages that share a script (English, French) are not told apart. Code blocks and links are left
out: they are in Latin letters whatever the language.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Script", "script_of"]

_READ = 500
_ENOUGH = 20
_CLEAR = 0.8
_QUOTED = 5
_NOT_PROSE = re.compile(r"```.*?(?:```|\Z)|https?://\S+|\\[a-zA-Z]+|\$[^$\n]*\$", re.DOTALL)
_SIGNS = ("```", "://", "\\", "$")

_SCRIPTS = {
    "Latin (English and others)": r"A-Za-z\u00c0-\u024f\u1e00-\u1eff",
    "Chinese": r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff",
    "Japanese": r"\u3040-\u30ff",
    "Korean": r"\u1100-\u11ff\u3130-\u318f\uac00-\ud7af",
    "Cyrillic (Russian and others)": r"\u0400-\u052f",
    "Arabic": r"\u0600-\u06ff\u0750-\u077f",
    "Greek": r"\u0370-\u03ff",
    "Hebrew": r"\u0590-\u05ff",
    "Devanagari (Hindi and others)": r"\u0900-\u097f",
    "Bengali": r"\u0980-\u09ff",
    "Tamil": r"\u0b80-\u0bff",
    "Thai": r"\u0e00-\u0e7f",
}
_LETTERS = {name: re.compile(f"[{span}]+") for name, span in _SCRIPTS.items()}
_OTHER = re.compile(f"[{''.join(list(_SCRIPTS.values())[1:])}]")
_LATIN, _CHINESE, _JAPANESE = list(_SCRIPTS)[:3]
_WORD_OF = {_LATIN: 5, _CHINESE: 2}
"""Letters of a word: a Chinese word takes two characters where an English one takes five."""


class Script(NamedTuple):
    """The script of a text.

    Attributes:
        name: In words; "none" if there are no letters.
        clear: Whether it is long enough and in one script, so that another one is another language.
    """

    name: str
    clear: bool


def script_of(text: str) -> Script:
    """The script that most words of a text's beginning are in."""
    prose = text[:_READ]
    if any(sign in prose for sign in _SIGNS):
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
