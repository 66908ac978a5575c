"""Answers that refuse, and phrases that chat models say of themselves."""

from __future__ import annotations

import re

from orpo.audit.findings import Finding, Tally, amount, grade, percent
from orpo.audit.views import PairView

__all__ = ["REFUSAL_LOOK", "REFUSAL_STOP", "Refusals", "refuses"]

REFUSAL_LOOK = 0.10
"""Data on safety refuse on purpose. Where one chosen answer in ten refuses or speaks of itself as a
language model, the model will too: that should be meant."""

REFUSAL_STOP = 0.50
"""A model that is taught to refuse every other request is of no use."""

_READ = 240
_CANNOT = r"\b(?:can'?t|cannot|can not|won'?t|(?:'m|am) (?:unable|not able|not allowed))\b"
_HELP = "assist|help|provide|answer|discuss|fulfil|comply|do that|create|engage|support|generate"
_FORMS = (
    # of themselves
    r"\bas an? (?:large |helpful |responsible )?(?:ai\b|artificial intelligence|language model)",
    r"\bi(?:'| a)m (?:just |only )?an? (?:large )?(?:ai\b|language model|artificial)",
    r"作为(?:一个|一名|一款|一种)?(?:人工智能|ai|大型?语言模型|语言模型|智能助手)",
    # refusals
    rf"\b(?:i'?m|i am) (?:very |so |really |truly )?(?:sorry|afraid)\b[^.!?]{{0,40}}?{_CANNOT}",
    rf"^\W*(?:sorry|apologies|i apologi[sz]e)\b[^.!?]{{0,40}}?{_CANNOT}",
    rf"^\W*i (?:can'?t|cannot|can not|won'?t|will not) (?:{_HELP})",
    r"^\W*i(?:'m| am) (?:unable|not able) to\b",
    r"^\W*(?:很抱歉|非常抱歉|对不起|抱歉|不好意思)[^。！？]{0,20}?(?:无法|不能|没有办法|没办法|不可以)",
    r"^\W*我(?:无法|不能|没有办法|没办法)(?:提供|协助|帮助|帮你|满足|回答|完成|为您|为你)",
)
_PATTERN = re.compile("|".join(_FORMS))
# One of these stands in every refusal; to look for them is much cheaper.
_SIGNS = (
    *("sorry", "afraid", "apolog", " ai", "language model", "artificial", "'t ", "not ", "unable"),
    *("cant ", "wont ", "作为", "抱歉", "对不起", "不好意思", "我无法", "我不能", "我没"),
)


def refuses(answer: str) -> bool:
    """Whether an answer begins as a refusal, or with what chat models say of themselves."""
    opening = answer[:_READ].replace("’", "'").lower()
    return any(sign in opening for sign in _SIGNS) and _PATTERN.search(opening) is not None


class Refusals:
    """Refusals by side."""

    def __init__(self) -> None:
        self._chosen, self._rejected = Tally(), 0
        self._rows = self._pairs = 0

    def add(self, pair: PairView) -> None:
        """Look at a pair."""
        self._rows += 1
        if refuses(pair.chosen):
            self._chosen.add(pair.where, pair.chosen)
        if pair.rejected is not None:
            self._pairs += 1
            self._rejected += refuses(pair.rejected)

    def finding(self) -> Finding:
        """What was found."""
        found, share = self._chosen, self._chosen.count / max(1, self._rows)
        other = self._rejected / max(1, self._pairs)
        says = (
            f"{amount(found.count, 'chosen answer')} ({percent(share)}) and "
            f"{amount(self._rejected, 'rejected answer')} ({percent(other)}) refuse, or begin with "
            "what chat models say of themselves."
        )
        verdict = grade(share, REFUSAL_LOOK, REFUSAL_STOP)
        return Finding(
            "refusals",
            "Refusals and boilerplate",
            verdict,
            found.count,
            self._rows,
            says if found.count or self._rejected else "No answer is a refusal.",
            ""
            if verdict == "ok"
            else "The model will learn to refuse like this: keep it only where it is meant.",
            found.shown,
            {"chosen": share, "rejected": other},
        )
