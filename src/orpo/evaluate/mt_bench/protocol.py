"""The protocol's fixed facts: categories, temperatures, which questions have a reference answer.

Source: Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena" (arXiv 2306.05685)
and the settings of FastChat 0.2.36 (`fastchat.llm_judge`).
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "CATEGORIES",
    "HIGHEST",
    "JUDGE_TOKENS",
    "LOWEST",
    "MAX_NEW_TOKENS",
    "OTHER",
    "TEMPERATURES",
    "UNPARSED",
    "WITH_REFERENCE",
    "category_of",
    "temperature_of",
]

CATEGORIES = (
    "writing",
    "roleplay",
    "reasoning",
    "math",
    "coding",
    "extraction",
    "stem",
    "humanities",
)
"""In the order of the questions and of the published radar charts."""

OTHER = "other"
"""The category of a question that the benchmark does not have."""

WITH_REFERENCE = frozenset({"math", "reasoning", "coding"})
"""Categories whose answers the judge compares with a reference answer."""

TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "stem": 0.1,
    "humanities": 0.1,
    **dict.fromkeys(("reasoning", "math", "coding", "extraction"), 0.0),
}
"""At which temperature answers are drawn."""

MAX_NEW_TOKENS = 1024
"""Longest answer."""

JUDGE_TOKENS = 2048
"""Longest judgment."""

LOWEST, HIGHEST = 1.0, 10.0
"""The scale that the judge is told."""

UNPARSED = -1
"""Written as the score where a judgment names none."""

_FIRST, _EACH = 81, 10


def category_of(question: int | str, known: Mapping[int | str, str] | None = None) -> str:
    """The category of a question.

    Args:
        question: Its number: 81 to 160, ten for each category.
        known: Categories of other questions; asked first.
    """
    if known and question in known:
        return known[question]
    place = question - _FIRST if isinstance(question, int) else -1
    return CATEGORIES[place // _EACH] if 0 <= place < _EACH * len(CATEGORIES) else OTHER


def temperature_of(category: str) -> float:
    """At which temperature a question of this category is answered; 0.7 for unknown ones."""
    return TEMPERATURES.get(category, 0.7)
