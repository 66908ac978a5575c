"""Prompts within texts: HH-RLHF transcripts, and texts that share their beginning."""

from __future__ import annotations

import re

from orpo.data.types import Message, Row, TextPair
from orpo.errors import DataError

__all__ = ["ASSISTANT", "split_texts", "split_transcripts", "turns_of"]

ASSISTANT = "\n\nAssistant:"
"""What opens an answer in a transcript."""

_TURN = re.compile(r"\n\n(Human|Assistant):")


def split_transcripts(chosen: str, rejected: str | None, row: Row) -> TextPair:
    """The prompt up to the last "\\n\\nAssistant:" that both share, and the answers.

    Raises:
        DataError: One is no transcript, or they share no prompt.
    """
    for name, transcript in (("chosen", chosen), ("rejected", rejected)):
        if transcript is not None and ASSISTANT not in transcript:
            raise DataError(
                "not a transcript: it has no '\\n\\nAssistant:' turn",
                where=f"{row.where}, field '{name}'",
                fix="Every row must be a Human/Assistant transcript, as the first row is.",
            )
    shared = len(chosen) if rejected is None else _common_prefix(chosen, rejected)
    at = chosen.rfind(ASSISTANT, 0, shared)
    if at < 0:
        raise DataError(
            "'chosen' and 'rejected' do not begin with the same prompt",
            where=f"{row.where}, field 'rejected'",
            fix="Both transcripts must share everything up to the answer.",
        )
    border = at + len(ASSISTANT)
    answer = None if rejected is None else rejected[border:]
    return TextPair(chosen[:border], chosen[border:], answer)


def split_texts(chosen: str, rejected: str, row: Row) -> TextPair:
    """Two plain texts: the prompt is what they share, up to the last border between words.

    Raises:
        DataError: They share no beginning.
    """
    shared = chosen[: _common_prefix(chosen, rejected)]
    # The white space before the first differing word belongs to the answer.
    ends_in_space = shared[-1:].isspace()
    whole_words = shared.rstrip() if ends_in_space else _without_last_word(shared)
    if not whole_words:
        raise DataError(
            "'chosen' and 'rejected' share no beginning, so there is no prompt",
            where=f"{row.where}, field 'chosen'",
            fix="Add a 'prompt' column.",
        )
    border = len(whole_words)
    return TextPair(whole_words, chosen[border:], rejected[border:])


def turns_of(transcript: str) -> list[Message]:
    """Messages of an HH prompt that ends with "\\n\\nAssistant:"; empty if it is not regular."""
    parts = _TURN.split(transcript)
    if parts[0].strip():
        return []
    roles = {"Human": "user", "Assistant": "assistant"}
    turns: list[Message] = [
        {"role": roles[speaker], "content": said.strip()}
        for speaker, said in zip(parts[1::2], parts[2::2], strict=True)
    ]
    return turns[:-1] if turns and turns[-1]["role"] == "assistant" else []


def _common_prefix(a: str, b: str) -> int:
    """Number of characters that both begin with, by bisection."""
    shared, end = 0, min(len(a), len(b))
    while shared < end:
        middle = (shared + end + 1) // 2
        if a[shared:middle] == b[shared:middle]:
            shared = middle
        else:
            end = middle - 1
    return shared


def _without_last_word(text: str) -> str:
    """The text before its last word and the white space in front of that; empty for one word."""
    parts = text.rsplit(None, 1)
    return parts[0] if len(parts) == 2 else ""
