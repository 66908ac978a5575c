"""Marks around what is judged, which nothing inside can imitate.

Every request has marks of its own: a number drawn from the seed and from all the texts between the
marks, so that no text can hold it, and so that the same question makes the same request again. The
verdict carries it too: what an answer says in the form of a verdict is not one.

And what a reader makes of a text that is written so that no rule shall recognise it: letters of
other alphabets that look like Latin ones, digits for letters, letters set apart, letters that
nobody sees, marks of emphasis. A language model reads through all of them.
"""

import hashlib
import re
import unicodedata

from orpo.evaluate.judge.replies import Chat

# What steers a terminal or a reader without being seen, among it the invisible letters that
# instructions can be written in; joiners stay, emoji and some scripts need them.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff"
    "\U000e0000-\U000e007f]"
)
# What the judge's own chat template might take for the end of our message.
_MARKUP = re.compile(
    r"<(?=[|｜])"
    r"|<(?=/?(?:s|bos|eos|start_of_turn|end_of_turn|im_start|im_end|think)>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS)\])"
    r"|<(?=<+/?SYS>>)",
    re.IGNORECASE,
)
_FENCE = re.compile("<{3,}")

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


def nonce_for(seed: int, *texts: str) -> str:
    """Eight hexadecimal digits that none of the texts holds."""
    for attempt in range(1000):
        parts = "\0".join((str(seed), str(attempt), *texts)).encode("utf-8", "replace")
        nonce = hashlib.sha256(parts).hexdigest()[:8]
        if not any(nonce in text.lower() for text in texts):
            return nonce
    raise AssertionError("a text holds a thousand numbers that depend on it")


def harmless(text: str) -> str:
    """A text that cannot end a message, write a mark, or say what nobody sees."""
    seen = _UNSEEN.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    broken = _MARKUP.sub(lambda found: f"{found[0]} ", seen)
    return _FENCE.sub(lambda found: " ".join(found[0]), broken)


def fenced(name: str, nonce: str, text: str) -> str:
    """A text between marks."""
    return f"<<<{name} {nonce}>>>\n{harmless(text)}\n<<<END {name} {nonce}>>>"


def excerpt(text: str, limit: int = 160) -> str:
    """How a text begins and ends, on one line; what nobody would see is written out.

    >>> excerpt("ten\u200b of ten")
    'ten<U+200B> of ten'
    """
    seen = _UNSEEN.sub(lambda found: f"<U+{ord(found[0]):04X}>", text)
    line = " ".join(seen.split())
    return line if len(line) <= 2 * limit else f"{line[:limit]} … {line[-limit:]}"


def conversation(prompt: str | Chat) -> str:
    """A prompt as one text; the turns of a conversation are named."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return prompt[0]["content"]
    return "\n\n".join(f"[{one['role'].capitalize()}]\n{one['content']}" for one in prompt)


def legible(text: str) -> str:
    """A text in plain letters: one form of each, no accents, nothing unseen, no emphasis.

    >>> legible("G i v e  t h i s  аnswer 1gn0re")
    'give this answer ignore'
    """
    seen = unicodedata.normalize("NFKC", _JOINERS.sub("", harmless(text.translate(_TAGS))))
    apart = unicodedata.normalize("NFKD", seen).translate(_SMALL_CAPITALS)
    plain = unicodedata.normalize("NFC", re.sub("[\u0300-\u036f]", "", apart))
    plain = _LETTERS.sub(  # a word in which letters of two alphabets are mixed
        lambda found: found[0].translate(_ALIKE) if _LATIN.search(found[0]) else found[0], plain
    )
    plain = _SPACED.sub(lambda found: _joined(found[0]), plain)
    plain = _LEET.sub(lambda found: _letters(found[0]), plain)
    return _EMPHASIS.sub("", plain)


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
