"""Holding rows out so that no prompt is on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orpo.audit.repair.balance import draw
from orpo.audit.repair.entries import Entry

__all__ = ["hold_out_prompts"]


def hold_out_prompts(
    entries: Sequence[Entry], share: float, seed: int, near: Mapping[bytes, bytes] | None = None
) -> None:
    """Mark a share of the rows as held out, all rows of one prompt alike.

    The side of a prompt depends on its words and the seed alone, so that it stays when rows are
    added or left out. Prompts that differ in case or white space only are one; rows that hold no
    pair are not held out.

    Args:
        entries: The rows; those that are dropped are left alone.
        share: Share of the prompts, between 0 and 1.
        seed: Draws which.
        near: Prompt -> the prompt whose side it shares, for prompts that resemble each other.
    """
    for entry in entries:
        if entry.kept and entry.is_pair:
            group = (near or {}).get(entry.group, entry.group)
            entry.held = draw(seed, group) < share * 2**64
