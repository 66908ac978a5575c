"""A pair as the checks see it, and one predicate for each fault of it.

The audit counts what it finds, `orpo data fix` drops it. Rows that repeat or contradict each other
are told by `PairView.key` and `PairView.opposite`, those that nearly do by `orpo.audit.repeats`,
and what a template or a limit does by the tokenizer.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from orpo.audit.similar import Hashes, words
from orpo.data.split import key_of, prompt_key, prompt_text, said
from orpo.data.types import Dropped, Ledger, PreferencePair, Row

CHECKS = (
    *("malformed", "empty", "identical_answers", "contradictions", "low_margin"),
    *("template_error", "too_long"),
)
"""Checks that drop rows, by the names that `--drop` takes."""
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


def empty_parts(seen: PairView) -> list[str]:
    """Which of prompt, chosen and rejected answer hold no text."""
    return [name for name, text in seen.texts.items() if text is not None and not text.strip()]


def same_answers(seen: PairView) -> str:
    """How both answers are the same: "exact" or "white_space_only"; empty if they are not."""
    if seen.rejected is None:
        return ""
    if seen.chosen == seen.rejected:
        return "exact"
    return "white_space_only" if seen.chosen.split() == seen.rejected.split() else ""


def low_margin(seen: PairView, least: float = 0.0) -> bool:
    """Whether the chosen answer scores less than so much above the rejected one."""
    return seen.scores is not None and not seen.scores[0] - seen.scores[1] >= least


def faults(seen: PairView, min_margin: float | None) -> Iterator[tuple[str, str]]:
    """What is wrong with a pair by itself: reasons to drop it, with details."""
    for name in empty_parts(seen):
        yield f"empty_{name}", f"the {name} holds no text"
    if same_answers(seen):
        yield "identical_answers", "both answers are the same, but for white space at most"
    if seen.scores is not None and min_margin is not None and low_margin(seen, min_margin):
        chosen, rejected = seen.scores
        yield "low_margin", f"scores {chosen:g} and {rejected:g}"


def check_of(reason: str) -> str:
    """The check out of `CHECKS` that a reason belongs to."""
    if reason.endswith("_after_template"):
        return "template_error"
    if reason.startswith("empty_"):
        return "empty"
    return "too_long" if reason.endswith("too_long") else reason


def count_texts(ledger: Ledger, seen: PairView) -> None:
    """Enter a pair as a training would, by its texts alone: there is no tokenizer to say more."""
    empty = [name for name in empty_parts(seen) if name != "prompt"]
    if empty:
        ledger.count(Dropped(f"empty_{empty[0]}", seen.where, f"field '{empty[0]}' holds no text"))
    elif seen.weight == 0:
        ledger.count(Dropped("zero_weight", seen.where, "field 'weight' is 0"))
    elif same_answers(seen) == "exact":
        ledger.count(Dropped("identical_answers", seen.where, "both answers are the same"))
    else:
        ledger.rows_in += 1
        ledger.kept += 1
        ledger.nll_only += seen.rejected is None
