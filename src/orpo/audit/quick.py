"""The cheap part of an audit, for `orpo train`: seconds, and three lines to read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from orpo.audit.account import (
    lost_finding,
    pairs_finding,
    rows_finding,
    truncation_from_ledger,
)
from orpo.audit.findings import Audit
from orpo.audit.run import SAMPLED, AuditPlan, audit_rows, peek
from orpo.data.reading import is_tokenised
from orpo.data.types import Ledger, Row

__all__ = ["CONTENT_ROWS", "headlines", "quick_audit"]

CONTENT_ROWS = 20_000
"""Rows whose texts are looked at: what is true of a data set shows in so many. Repeated rows,
identical answers and leaked prompts are looked for among all."""


def quick_audit(
    name: str,
    rows: Iterable[Row],
    eval_rows: Iterable[Row] | None = None,
    *,
    account: Ledger | None = None,
    data_format: str = "",
    pair_rule: str = "best_worst",
) -> Audit:
    """All checks that need neither tokens nor a comparison of rows by their words.

    Args:
        name: What the data set is called.
        rows: The rows that are trained on.
        eval_rows: The held-out rows, to look for leaked prompts.
        account: what became of the rows as they were tokenised, which says what max_length
            cut and dropped; None if that is not known.
        data_format: Name of the rows' format; recognised by itself if empty.
        pair_rule: How a pair is chosen from a list of scored answers.

    Returns:
        Without findings, and with a note, if the rows are token ids already. Beyond
        `CONTENT_ROWS` rows a note says which checks looked at the first ones only.
    """
    held = "" if eval_rows is None else "eval_dataset"
    plan = AuditPlan(
        name,
        near=False,
        eval_name=held,
        data_format=data_format,
        pair_rule=pair_rule,
        content_rows=CONTENT_ROWS,
    )
    first, rows = peek(rows)
    if first is not None and is_tokenised(first.values):
        note = "not checked: these data are token ids, and the checks read texts"
        return Audit(name, (), account or Ledger(), notes=(note,))
    audit = audit_rows(plan, rows, eval_rows)
    audit = replace(audit, notes=tuple(n for n in audit.notes if n.startswith(SAMPLED)))
    if account is None:
        return audit
    counted = [rows_finding(account, left_out=True), lost_finding(account), pairs_finding(account)]
    replaced = {finding.check for finding in counted}
    others = [finding for finding in audit.findings if finding.check not in replaced]
    findings = (*counted, *others, truncation_from_ledger(account))
    return replace(audit, rows=account, findings=findings)


def headlines(audit: Audit, count: int = 3) -> list[str]:
    """The most important findings, one line each: what was found, and what to do.

    What was looked at in a sample only is said below them.
    """
    lines = [f"{f.verdict}: {f.says} {f.do}".strip() for f in audit.worst(count)]
    return [*lines, *(note for note in audit.notes if lines)]
