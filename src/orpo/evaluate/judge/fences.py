"""Marks around what is judged, which nothing inside can imitate.

Every request has marks of its own: a number drawn from the seed and from all the texts between the
marks, so that no text can hold it, and so that the same question makes the same request again. The
verdict carries it too: what an answer says in the form of a verdict is not one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from orpo.evaluate.judge.types import Chat

__all__ = ["conversation", "excerpt", "fenced", "harmless", "nonce_for"]

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


def nonce_for(seed: int, *texts: str) -> str:
    """Eight hexadecimal digits that none of the texts holds."""
    for attempt in range(1000):
        parts = "\0".join((str(seed), str(attempt), *texts)).encode("utf-8", "replace")
        nonce = hashlib.sha256(parts).hexdigest()[:8]
        if not any(nonce in text.lower() for text in texts):
            return nonce
    raise AssertionError("a text holds a thousand numbers that depend on it")


def harmless(text: str) -> str:
    """A text that cannot end a message, write a mark, or say what nobody sees.

    Chat markup gets a space after its first character; unseen characters go.
    """
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
    names: Sequence[tuple[str, str]] = [(turn["role"], turn["content"]) for turn in prompt]
    return "\n\n".join(f"[{role.capitalize()}]\n{content}" for role, content in names)
