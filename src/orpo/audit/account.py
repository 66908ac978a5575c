"""The account of the rows: which could not be read, and whether enough are left."""

from __future__ import annotations

from orpo.audit.findings import EXAMPLES, Example, Finding, amount, clip, grade, percent
from orpo.audit.truncation import CUT_LOOK, CUT_STOP, DROPPED_LOOK, DROPPED_STOP
from orpo.audit.views import PairView
from orpo.data.types import Dropped, Ledger

__all__ = [
    "FEW_PAIRS",
    "LOST_LOOK",
    "MALFORMED_STOP",
    "count_view",
    "lost_finding",
    "pairs_finding",
    "rows_finding",
    "truncation_from_ledger",
]

MALFORMED_STOP = 0.05
"""A few broken rows are slips; one in twenty says that the file is in another format in part."""

FEW_PAIRS = 500
"""Fewer pairs are learnt by heart before anything else changes; published runs use thousands."""

LOST_LOOK = 0.05
"""One row in twenty does not reach the training, for whatever reasons; what is left may differ."""

_NOT_IN_MIX = "not_in_mix"
_BROKEN = ("unreadable", "malformed")
_TOO_LONG = ("too_long", "prompt_too_long", "identical_after_truncation")


def count_view(ledger: Ledger, pair: PairView) -> None:
    """Enter a pair by its texts alone, where there is no tokenizer to say more."""
    for name, text in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        if text is not None and not text.strip():
            ledger.count(Dropped(f"empty_{name}", pair.where, f"field '{name}' holds no text"))
            return
    if pair.weight == 0:
        ledger.count(Dropped("zero_weight", pair.where, "field 'weight' is 0"))
        return
    if pair.chosen == pair.rejected:
        ledger.count(Dropped("identical_answers", pair.where, "both answers are the same"))
        return
    ledger.rows_in += 1
    ledger.kept += 1
    ledger.nll_only += pair.rejected is None


def rows_finding(ledger: Ledger, *, left_out: bool = False) -> Finding:
    """Rows that could not be read; `left_out` says that a training leaves them out already."""
    count, rows = sum(ledger.dropped[reason] for reason in _BROKEN), ledger.rows_in
    examples = [one for reason in _BROKEN for one in ledger.examples.get(reason, [])]
    share = count / max(1, rows)
    return Finding(
        "unreadable_rows",
        "Rows that cannot be read",
        grade(share, 0.0, MALFORMED_STOP),
        count,
        rows,
        f"{amount(count, 'row')} ({percent(share)}) cannot be read as preference pairs."
        if count
        else "Every row can be read.",
        ""
        if not count
        else "Correct them: they are left out."
        if left_out
        else "Correct them, or train with --on_bad_row drop.",
        tuple(Example(one.where, clip(one.detail)) for one in examples[:EXAMPLES]),
    )


def lost_finding(ledger: Ledger) -> Finding:
    """Rows that do not reach the training, for whatever reasons."""
    kept, rows = ledger.kept, ledger.rows_in - ledger.dropped[_NOT_IN_MIX]
    lost = rows - kept
    verdict = grade(lost / max(1, rows), LOST_LOOK, 1.0)
    reasons = ", ".join(
        f"{n:,} {reason.replace('_', ' ')}"
        for reason, n in ledger.dropped.most_common()
        if reason != _NOT_IN_MIX
    )
    return Finding(
        "lost_rows",
        "Rows lost before training",
        verdict,
        lost,
        rows,
        f"{lost:,} of {amount(rows, 'row')} are dropped ({reasons})."
        if lost
        else "Every row would be trained on.",
        "" if verdict == "ok" else "See why rows are dropped.",
        (),
        {"kept": float(kept)},
    )


def pairs_finding(ledger: Ledger) -> Finding:
    """Whether enough pairs are left to train on."""
    alone, pairs = ledger.nll_only, ledger.kept - ledger.nll_only
    verdict = "stop" if not pairs else "look" if pairs < FEW_PAIRS else "ok"
    beside = f" and {amount(alone, 'row')} without rejected answer" * bool(alone)
    return Finding(
        "few_pairs",
        "Number of pairs",
        verdict,
        pairs,
        ledger.kept,
        f"{amount(pairs, 'pair')}{beside} would be trained on.",
        ""
        if verdict == "ok"
        else f"Collect more: below {FEW_PAIRS} pairs little is learnt."
        if pairs
        else "Give rows a rejected answer: orpo train refuses data without."
        if ledger.kept
        else "See why rows are dropped.",
        (),
        {"pairs": float(pairs), "nll_only": float(alone)},
    )


def truncation_from_ledger(ledger: Ledger) -> Finding:
    """What max_length did, by the account of a data set that is tokenised already."""
    lost = {reason: n for reason, n in ledger.dropped.items() if reason in _TOO_LONG}
    dropped, kept = sum(lost.values()), ledger.kept
    cut = max(ledger.cut.values(), default=0)
    pairs = max(1, kept + dropped)
    verdicts = (
        grade(cut / pairs, CUT_LOOK, CUT_STOP),
        grade(dropped / pairs, DROPPED_LOOK, DROPPED_STOP),
    )
    verdict = next((v for v in ("stop", "look") if v in verdicts), "ok")
    told = ", ".join(f"the {part} of {n:,}" for part, n in ledger.cut.items()) or "none"
    return Finding(
        "truncation",
        "Cut and dropped by max_length",
        verdict,
        cut + dropped,
        kept + dropped,
        f"Of {amount(kept + dropped, 'pair')} max_length cuts {told}; {dropped:,} are dropped as "
        "too long."
        if cut + dropped
        else "Every pair fits into max_length.",
        "" if verdict == "ok" else "Raise max_length, or see orpo data audit --model.",
        (),
        {"cut": float(cut), "dropped": float(dropped)},
    )
