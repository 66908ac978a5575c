"""A pair as the checks see it: three texts, whatever form the pair has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from orpo.audit.similar import Hashes, words
from orpo.data.split import key_of, prompt_key, prompt_text, said
from orpo.data.types import PreferencePair, Row

PROMPT_WORDS = 256
"""Words at the end of a prompt that comparisons look at."""


@dataclass(frozen=True)
class PairView:
    """The texts of a pair, and what several checks want to know of them."""

    row: Row  # where the pair came from, with its columns
    prompt: str  # what was said before the answer, without system messages and roles
    chosen: str
    rejected: str | None  # None if there is none
    turns: int  # of the user in the prompt
    last_role: str  # whose turn is the prompt's last; empty for plain text
    written_out: bool  # prompt and answers are plain text with whatever markup the user means
    setting: str = ""  # system messages and tools: of the row, but not of the question
    speakers: tuple[tuple[str, int], ...] = ()  # role and length of each message of the prompt
    weight: float = 1.0  # factor of the pair's part of the loss
    scores: tuple[float, float] | None = None  # of the chosen and the rejected answer

    @property
    def where(self) -> str:
        """File and line, or data set and row."""
        return self.row.where

    @property
    def texts(self) -> dict[str, str | None]:
        """The three texts by name."""
        return {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected}

    @cached_property
    def prompt_key(self) -> int:
        """Stands for the prompt, who said what of it, and what stands around it."""
        return key_of(f"{self.setting}\0{self.speakers}\0{self.prompt}")

    @cached_property
    def key(self) -> bytes:
        """Stands for prompt and answers: rows with the same one repeat each other."""
        answers = [self.chosen] if self.rejected is None else [self.chosen, self.rejected]
        return b"".join(key.to_bytes(8) for key in (self.prompt_key, *map(key_of, answers)))

    @cached_property
    def setting_key(self) -> int:
        """Stands for what stands around the prompt, and for who speaks in which order."""
        return key_of(f"{self.setting}\0{[role for role, _ in self.speakers]}")

    @cached_property
    def question_key(self) -> int:
        """Stands for the prompt but for case and white space."""
        return prompt_key(self.prompt)

    @cached_property
    def asked(self) -> Hashes:
        """The last words of the prompt, as hashes."""
        return words(self.prompt, PROMPT_WORDS, from_end=True)


def opposite(key: bytes) -> bytes:
    """The key of a pair that prefers what this one rejects; empty if nothing can be that."""
    swapped = key[:8] + key[16:] + key[8:16]
    return swapped if len(key) > 16 and swapped != key else b""


def view(pair: PreferencePair) -> PairView:
    """The texts of a pair: its messages if it has them, else its plain text."""
    around = [said(m) for m in pair.prompt or () if m.get("role") == "system"]
    around += [json.dumps(pair.tools, ensure_ascii=False, default=str)] if pair.tools else []
    shared: dict[str, Any] = {
        **{"row": pair.row, "weight": pair.weight, "scores": pair.scores},
        **{"setting": "\0".join(around), "prompt": prompt_text(pair)},
    }
    if pair.prompt is None:
        assert pair.text is not None
        return PairView(
            chosen=pair.text.chosen,
            rejected=pair.text.rejected,
            turns=max(1, pair.text.prompt.count("\n\nHuman:")),
            last_role="",
            written_out=True,
            **shared,
        )
    roles = [str(message.get("role")) for message in pair.prompt]
    lengths = [len(said(message)) for message in pair.prompt]
    return PairView(
        chosen=said(pair.chosen or {}),
        rejected=None if pair.rejected is None else said(pair.rejected),
        turns=roles.count("user"),
        last_role=roles[-1] if roles else "",
        written_out=False,
        speakers=tuple(zip(roles, lengths, strict=True)),
        **shared,
    )
