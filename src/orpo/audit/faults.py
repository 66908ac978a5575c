"""One predicate for each fault of a pair: the audit counts what it finds, `orpo data fix` drops it.

Rows that repeat or contradict each other are told by `PairView.key` and `PairView.opposite`, those
that nearly do by `orpo.audit.repeats`, and what a template or a limit does by the tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator

from orpo.audit.views import PairView
from orpo.data.types import Dropped, Ledger

CHECKS = (
    *("malformed", "empty", "identical_answers", "contradictions", "low_margin"),
    *("template_error", "too_long"),
)
"""Checks that drop rows, by the names that `--drop` takes."""


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
