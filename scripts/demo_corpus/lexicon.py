"""The words that lists and translations are made of; they are the checker's."""

from typing import Literal

from orpo.demo.checks import CHINESE, ENGLISH

Language = Literal["en", "zh"]
"""A language of prompts and answers."""

LANGUAGES: tuple[Language, ...] = ("en", "zh")

WORDS: tuple[str, ...] = tuple(CHINESE)


def in_language(item: str, language: Language) -> str:
    """Return a lexicon word of either language in `language`; anything else unchanged."""
    return CHINESE.get(item, item) if language == "zh" else ENGLISH.get(item, item)
