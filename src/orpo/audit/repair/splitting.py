"""Holding rows out so that no prompt is on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orpo.audit.repair.entries import Entry
from orpo.data.split import is_held_out

__all__ = ["hold_out_prompts"]


def hold_out_prompts(
    entries: Sequence[Entry], share: float, seed: int, near: Mapping[int, int] | None = None
) -> None:
    """Mark a share of the rows as held out, all rows of one prompt alike.

    By the rule of `orpo.data.split`, so that a training holds out the same prompts. Rows that hold
    no pair are not held out.

    Args:
        entries: The rows; those that are dropped are left alone.
        share: Share of the prompts, between 0 and 1.
        seed: Draws which.
        near: Prompt -> the prompt whose side it shares, for prompts that resemble each other.
    """
    for entry in entries:
        if entry.kept and entry.is_pair:
            group = (near or {}).get(entry.group, entry.group)
            entry.held = is_held_out(group, share, seed)
