"""The data of a run as its trainer would prepare them, as far as a sample tells."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from typing import Any

from orpo.audit.findings import Audit
from orpo.audit.lengths import truncation_of
from orpo.audit.run import quick_audit
from orpo.config import ORPOConfig
from orpo.data.split import Sample
from orpo.data.types import Ledger, Row
from orpo.errors import DataError
from orpo.train.before.memory import pair_lengths
from orpo.train.datasets import DatasetReader

__all__ = ["SAMPLED", "Seen", "audit_of", "look"]

SAMPLED = 2000
"""Rows that are tokenised; of more, so many are drawn."""


@dataclass(frozen=True)
class Seen:
    """A data set that was looked at.

    Attributes:
        name: What messages call it.
        rows: Rows read.
        sampled: Those of them that were tokenised.
        pairs: Pairs that will be trained on: counted if all rows were tokenised, else estimated.
        prompt: Mean tokens of the prompts.
        chosen: Mean tokens of the preferred answers.
        rejected: Mean tokens of the rejected answers; 0 for a row without.
        common: Mean number of tokens that both answers begin with.
        longest: Most tokens of a prompt and both its answers.
        account: What became of the rows that were tokenised, `Ledger.as_dict()`.
    """

    name: str
    rows: int
    sampled: int
    pairs: int
    prompt: float
    chosen: float
    rejected: float
    common: float
    longest: int
    account: dict[str, Any]

    @property
    def whole(self) -> bool:
        """Whether all rows were tokenised."""
        return self.sampled == self.rows

    def summary(self) -> str:
        """One line, as a training says it, or of the sample."""
        line = Ledger.from_dict(self.account).summary()
        if self.whole:
            return line
        return f"{line} (of {self.rows:,} rows {self.sampled:,} were drawn and tokenised)"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "whole": self.whole}


def look(name: str, rows: Iterable[Row], reader: DatasetReader, config: ORPOConfig) -> Seen:
    """Go through the rows, and prepare some of them as a trainer would.

    Raises:
        DataError: A row that cannot be read where that is an error, or nothing is left.
        ModelError: Token ids that the model does not know.
    """
    sample = Sample(SAMPLED, config.seed)
    deque(sample.passing(rows), maxlen=0)
    if not sample.rows:
        raise DataError("the data set is empty", where=name, fix="Give at least one row.")
    drawn = sorted(sample.rows, key=lambda row: row.index)
    prepared = reader.one(drawn, name)
    lengths = pair_lengths(prepared)[:, :3]
    kept = len(lengths)
    means = lengths.mean(0)
    return Seen(
        name=name,
        rows=sample.passed,
        sampled=len(drawn),
        pairs=kept if len(drawn) == sample.passed else round(kept / len(drawn) * sample.passed),
        prompt=float(means[0]),
        chosen=float(means[1]),
        rejected=float(means[2]),
        common=sum(map(_common, prepared)) / kept,
        longest=int(lengths.sum(1).max()),
        account=reader.ledgers[name].as_dict(),
    )


def _common(pair: Mapping[str, Any]) -> int:
    both = zip(pair["chosen_ids"], pair["rejected_ids"], strict=False)
    return sum(1 for _ in takewhile(lambda tokens: tokens[0] == tokens[1], both))


def audit_of(
    seen: Seen, rows: Iterable[Row], held_out: Iterable[Row] | None, config: ORPOConfig
) -> Audit:
    """The quick audit that a training begins with.

    Raises:
        DataError: A malformed row where that stops a training; the sample may not have met it.
    """
    how = {"data_format": config.format_name, "pair_rule": config.pair_rule}
    counted = Ledger.from_dict(seen.account)
    audit = quick_audit(seen.name, rows, held_out, account=counted if seen.whole else None, **how)
    if audit.findings and not seen.whole:  # what max_length does, the sample says
        audit = replace(audit, findings=(*audit.findings, truncation_of(counted)))
    if config.on_bad_row == "error":
        for reason in ("unreadable", "malformed"):
            for row in audit.rows.examples.get(reason, [])[:1]:
                raise DataError(
                    row.detail,
                    where=row.where,
                    fix="Correct it, or leave such rows out with --on_bad_row drop.",
                )
    return audit
