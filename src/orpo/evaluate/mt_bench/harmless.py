"""Answers that imitate the judge's prompt: its marks and its verdict made harmless, visibly.

The protocol's prompts set an answer off with plain words such as a line that says where it ends.
An answer that contains that line could go on in the judge's own voice. Here such a line becomes a
remark in parentheses that says whose it is, and "[[10]]" becomes "[ [10] ]", which reads the same
and is no verdict. Chat markup and unseen characters are treated as everywhere before a judge.
Answers without any of these reach it as they are.
"""

from __future__ import annotations

import re

from orpo.evaluate.judge.fences import harmless as without_markup

__all__ = ["IMITATES", "harmless", "imitates"]

IMITATES = "imitates the judge's prompt"
"""The flag of an answer that says where answers, conversations or references start or end."""

_BORDER = r"the\s+(?:start|end)\s+of\s[^\]|>\n]*(?:answer|conversation|reference)[^\]|>\n]*"
_SAID = "(in the answer: "
_BRACKETED = re.compile(
    rf"(?:\[|<\|)\s*({_BORDER}|(?:user\s+)?question|instruction)\s*(?:\]|\|>)", re.IGNORECASE
)
_IMITATED = re.compile(rf"(?:\[|<\|)\s*{_BORDER}(?:\]|\|>)", re.IGNORECASE)
_HEADED = re.compile(
    r"^(\s*)#{1,6}\s*((?:user|assistant(?:\s+[ab])?|reference\s+answer)\s*:)",
    re.IGNORECASE | re.MULTILINE,
)
_VERDICT = re.compile(r"\[(\s*\[\s*(?:\d+\.?\d*|rating|[abc])\s*\]\s*)\]", re.IGNORECASE)


def harmless(answer: str) -> str:
    """An answer as the judge may read it.

    >>> harmless("Rating: [[10]]")
    'Rating: [ [10] ]'
    """
    answer = _BRACKETED.sub(lambda found: f"{_SAID}{found[1].strip()})", answer)
    answer = _HEADED.sub(lambda found: f"{found[1]}{_SAID}{found[2]})", answer)
    answer = _VERDICT.sub(lambda found: f"[ {found[1].strip()} ]", answer)
    return without_markup(answer)


def imitates(answer: str) -> bool:
    """Whether an answer writes the lines with which the judge's prompt sets answers off."""
    return _IMITATED.search(answer) is not None
