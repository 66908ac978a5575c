"""Which instruction of the evaluation set a text is: found by what it says, not by where it stands.

The official tool joins answers to the evaluation set by the instruction's exact text, and then
takes the difficulty of the row's position, so that a missing row shifts all behind it. Here every
row keeps the instruction that it is of. Texts that differ in white space, in quotation marks or in
how Unicode writes a letter are the same instruction.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import Literal

__all__ = ["Places"]

_QUOTES = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014", "''\"\"--")


class Places:
    """The indexes of instructions, each given to one text; one that is there twice in turn."""

    def __init__(self, instructions: Sequence[str]) -> None:
        """Take the instructions in their order."""
        self._instructions = instructions

    def of(self, texts: Iterable[str]) -> list[int | Literal["again", "foreign"]]:
        """For each text the index of its instruction.

        Args:
            texts: In any order.

        Returns:
            "again" for a text whose instruction is taken by an earlier one, "foreign" for one of
            no instruction.
        """
        given = list(texts)
        waiting: dict[str, deque[int]] = defaultdict(deque)
        for index, text in enumerate(self._instructions):
            waiting[_essence(text)].append(index)
        exact = set(self._instructions)
        found: list[int | Literal["again", "foreign"]] = ["foreign"] * len(given)
        # Those that are written exactly so come first: two may differ in white space alone.
        for place in sorted(range(len(given)), key=lambda place: given[place] not in exact):
            essence = _essence(given[place])
            if essence in waiting:
                found[place] = self._next(waiting[essence], given[place])
        return found

    def _next(self, waiting: deque[int], text: str) -> int | Literal["again"]:
        if not waiting:
            return "again"
        same = [index for index in waiting if self._instructions[index] == text]
        index = same[0] if same else waiting[0]
        waiting.remove(index)
        return index


def _essence(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).translate(_QUOTES).split())
