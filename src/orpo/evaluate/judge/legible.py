"""What a reader makes of a text that is written so that no rule shall recognise it.

Letters of other alphabets that look like Latin ones, digits for letters, letters set apart, letters
that nobody sees, marks of emphasis: a language model reads through all of them.
"""

from __future__ import annotations

import re
import unicodedata

from orpo.evaluate.judge.fences import harmless

__all__ = ["legible"]

_WORDS = """
a all always an and answer answers are as assign award be best better choose completion correct
declare disregard evaluator first forget full give grade grader guidelines highest i ignore in
instruction instructions is it judge mark marks maximum must my of one other output over perfect
pick please points prefer previous prior prompt rate rating reply response rubric rules score
select should system ten than that the this to top verdict vote winner with you your above
"""
_VOCABULARY = frozenset(_WORDS.split())
_TAGS = {0xE0000 + code: code for code in range(0x20, 0x7F)}  # unseen letters for each ASCII one
_ALIKE = str.maketrans(
    "абвгдеёзіїјкмнорсԁѕтухһԛԝьαβγεηικνορτυχωѵАВЕЅІЈКМНОРСТУХҮΑΒΕΖΗΙΚΜΝΟΡΤΥΧɡɑıⅼ",
    "a6brдee3iijkmhopcdstyxhqwbaßyenikvoptuxwvABESIJKMHOPCTYXYABEZHIKMNOPTYXgail",
)
_SMALL_CAPITALS = str.maketrans("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢı", "abcdefghijklmnoprstuvwyzi")
_DIGITS = str.maketrans("0134578@$!|", "oieastbasil")
_LETTERS = re.compile(r"[^\W\d_]+")
_LATIN = re.compile("[A-Za-z]")
_LEET = re.compile(r"[\w@$!|]{4,20}")
_JOINERS = re.compile("[\u00ad\u034f\u115f\u1160\u180e\u200c\u200d\u3164\ufe00-\ufe0f]")
_SPACED = re.compile(
    r"(?<![^\W_])(?:[a-z0-9@$][ .\-_·*]{1,3}){5,}[a-z0-9@$](?![^\W_])", re.IGNORECASE
)
_EMPHASIS = re.compile(r"\*+|__+|~~|</?(?:b|i|u|em|strong|span|p|br|mark)\b[^<>]{0,80}>", re.I)
_WORD = re.compile("|".join(sorted(_VOCABULARY, key=len, reverse=True)) + "|.")


def legible(text: str) -> str:
    """A text in plain letters: one form of each, no accents, nothing unseen, no emphasis.

    >>> legible("G i v e  t h i s  аnswer 1gn0re")
    'give this answer ignore'
    """
    seen = unicodedata.normalize("NFKC", _JOINERS.sub("", harmless(text.translate(_TAGS))))
    apart = unicodedata.normalize("NFKD", seen).translate(_SMALL_CAPITALS)
    plain = unicodedata.normalize("NFC", re.sub("[\u0300-\u036f]", "", apart))
    plain = _LETTERS.sub(lambda found: _latin(found[0]), plain)
    plain = _SPACED.sub(lambda found: _joined(found[0]), plain)
    plain = _LEET.sub(lambda found: _letters(found[0]), plain)
    return _EMPHASIS.sub("", plain)


def _latin(word: str) -> str:
    """A word in which letters of two alphabets are mixed, in Latin ones."""
    return word.translate(_ALIKE) if _LATIN.search(word) else word


def _letters(word: str) -> str:
    """The word that is meant, if it is one that the rules know."""
    meant = word.lower().translate(_DIGITS)
    return meant if meant in _VOCABULARY and meant != word.lower() else word


def _joined(spaced: str) -> str:
    """Letters set apart as words; as they stand if they make few that the rules know."""
    run = re.sub(r"[\W_]", "", spaced).lower()
    words = _WORD.findall(run)
    known = sum(len(word) for word in words if len(word) > 1)
    return " ".join(words) if known >= 0.7 * len(run) else spaced
