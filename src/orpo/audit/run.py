"""An audit: one pass over the rows, whose texts are not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

from orpo.audit.account import count_view, lost_finding, pairs_finding, rows_finding
from orpo.audit.checks import Checks
from orpo.audit.findings import Audit, Finding, amount
from orpo.audit.length_bias import Lengths
from orpo.audit.markup import BY_TEMPLATE
from orpo.audit.truncation import TokenCounts
from orpo.audit.views import PairView, view
from orpo.data.asked import CHANGES, decide, told_of_changes
from orpo.data.lengths import LengthPolicy, TooLongError
from orpo.data.reading import PairReaders, is_tokenised
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Dropped, Ledger, PreferencePair, Row, TokenizedPair
from orpo.errors import DataError

__all__ = ["SAMPLED", "AuditPlan", "audit_rows", "peek"]

Say = Callable[[str], None]

SAMPLED = "looked at in a sample: lengths,"
"""How the note begins that says what was not looked at in every row."""

_CHUNK = 256
_NEWS = 20_000


@dataclass(frozen=True)
class AuditPlan:
    """What an audit looks at.

    Attributes:
        name: What is audited, as it was named.
        lengths: The limits that truncation is tried with.
        tokenize: Tokenises without a limit; None if there is no tokenizer.
        model: Whose tokenizer that is.
        eval_name: What the evaluation data were named; empty if there are none.
        near: Look for near duplicates too.
        data_format: Name of the rows' format; recognised by itself if empty.
        pair_rule: How a pair is chosen from a list of scored answers.
        content_rows: How many of the first rows are looked at for what their texts say (lengths,
            markup, refusals, languages, ...); None for all.
    """

    name: str
    lengths: LengthPolicy = field(default_factory=LengthPolicy)
    tokenize: PairTokenizer | None = None
    model: str = ""
    eval_name: str = ""
    near: bool = True
    data_format: str = ""
    pair_rule: str = "best_worst"
    content_rows: int | None = None


def audit_rows(
    plan: AuditPlan,
    rows: Iterable[Row],
    eval_rows: Iterable[Row] | None = None,
    say: Say | None = None,
) -> Audit:
    """Audit a data set.

    Args:
        plan: What to look at.
        rows: The rows, read once.
        eval_rows: The evaluation data that leakage is looked for in.
        say: Told now and then how far it is.

    Raises:
        DataError: The rows are token ids already, or most of them cannot be read.
    """
    first, rows = peek(rows)
    if first is not None and is_tokenised(first.values):
        raise DataError(
            "holds token ids, and an audit reads texts",
            where=plan.name,
            fix="Audit the data that they were made of.",
        )
    auditor = _Auditor(plan, leakage=eval_rows is not None)
    if eval_rows is not None:
        auditor.hold(eval_rows)
    for chunk in _chunks(rows):
        before = auditor.ledger.rows_in
        auditor.add(chunk)
        if say and before // _NEWS < auditor.ledger.rows_in // _NEWS:
            say(f"{amount(auditor.ledger.rows_in, 'row')} read")
    auditor.require_readable()
    return auditor.audit()


def peek(rows: Iterable[Row]) -> tuple[Row | None, Iterator[Row]]:
    """The first row, and all rows."""
    remaining = iter(rows)
    first = next(remaining, None)
    return first, remaining if first is None else chain([first], remaining)


class _Auditor:
    """The state of an audit: counts, hashes and lengths."""

    def __init__(self, plan: AuditPlan, *, leakage: bool) -> None:
        self.ledger = Ledger(plan.name)
        self._plan = plan
        self._read = self._readers()
        self._checks = Checks(near=plan.near, leakage=leakage)
        self._lengths = Lengths("tokens" if plan.tokenize else "characters")
        self._tokens = TokenCounts()
        self._notes: list[str] = []
        self._pairs = 0

    def _readers(self) -> PairReaders:
        return PairReaders(self._plan.data_format, "drop", self._plan.pair_rule)

    def hold(self, rows: Iterable[Row]) -> None:
        """Read the evaluation data."""
        read, bad = self._readers(), 0
        for row in rows:
            pair = read(row)
            if isinstance(pair, Dropped):
                bad += 1
            else:
                self._checks.hold(view(pair))
        read.require_readable()
        if bad:
            self._notes.append(f"{self._plan.eval_name}: {amount(bad, 'row')} cannot be read")

    def require_readable(self) -> None:
        """Check, when all rows were read, that most of them could be."""
        self._read.require_readable()

    def add(self, rows: Sequence[Row]) -> None:
        """Look at some rows."""
        pairs = []
        for row in rows:
            pair = self._read(row)
            if isinstance(pair, Dropped):
                self.ledger.count(pair)
            else:
                pairs.append(pair)
        views = [view(pair) for pair in pairs]
        limit = self._plan.content_rows
        within = len(views) if limit is None else max(0, limit - self._pairs)
        self._pairs += len(views)
        for number, seen in enumerate(views):
            self._checks.add(seen, content=number < within)
        if self._plan.tokenize is None:
            for seen in views:
                count_view(self.ledger, seen)
            for seen in views[:within]:
                other = None if seen.rejected is None else len(seen.rejected)
                self._lengths.add(len(seen.prompt), len(seen.chosen), other)
        else:
            self._add_tokens(self._plan.tokenize, pairs, views)

    def _add_tokens(
        self,
        tokenize: PairTokenizer,
        pairs: Sequence[PreferencePair],
        views: Sequence[PairView],
    ) -> None:
        start = tokenize.tokenizer.bos_token_id
        for outcome, seen in zip(tokenize.batch(pairs), views, strict=True):
            if isinstance(outcome, Dropped):
                self.ledger.count(outcome)
                if outcome.reason in BY_TEMPLATE:
                    kind = BY_TEMPLATE[outcome.reason]
                    self._checks.template.add_fault(seen.where, outcome.detail, kind)
                continue
            for change in outcome.lost:
                self._checks.template.add_fault(seen.where, CHANGES[change], CHANGES[change])
            self.ledger.count(_fitted(self._plan.lengths, outcome, seen.where))
            self._tokens.add(outcome)
            answer = len(outcome.rejected_ids) if outcome.rejected_ids else None
            self._lengths.add(len(outcome.prompt_ids), len(outcome.chosen_ids), answer)
            if start is not None and outcome.prompt_ids[:2] == [start, start]:
                self._checks.template.add_double_start(seen.where, seen.prompt)

    def audit(self) -> Audit:
        """What was found."""
        plan, tokens = self._plan, self._tokens
        self.ledger.format = " + ".join(self._read.formats)
        text_findings = self._checks.findings()
        findings: list[Finding] = [
            account(self.ledger) for account in (rows_finding, lost_finding, pairs_finding)
        ]
        findings += [*text_findings, self._lengths.finding()]
        if len(tokens):
            findings.append(tokens.finding(plan.lengths))
        return Audit(
            dataset=plan.name,
            findings=tuple(findings),
            rows=self.ledger,
            eval_dataset=plan.eval_name,
            model=plan.model,
            unit="tokens" if plan.tokenize else "characters",
            max_length=plan.lengths.max_length if plan.tokenize else None,
            lengths=self._lengths.histograms(),
            length_bias=self._lengths.curve(),
            truncation=tokens.limits(plan.lengths) if len(tokens) else (),
            languages=self._checks.languages.counts(),
            turns=self._checks.turns.counts(),
            budget=tokens.budget(plan.lengths) if len(tokens) else {},
            notes=(
                *self._of_template(),
                *self._sampled(),
                *self._missing(),
                *self._checks.notes,
                *self._notes,
            ),
        )

    def _of_template(self) -> Iterator[str]:
        """What the template does to answers and prompts, with what may be done about it."""
        if self._plan.tokenize is not None:
            template, ledger = self._plan.tokenize.template, self.ledger
            yield from told_of_changes(template, ledger.changed, ledger.kept)
            decision = decide(template, ledger.after, {})
            yield from decision.notes() if decision is not None else ()

    def _not_looked_at(self) -> Iterator[str]:
        yield from (*self._sampled(), *self._missing(), *self._checks.notes, *self._notes)

    def _sampled(self) -> Iterator[str]:
        limit = self._plan.content_rows
        if limit is not None and self._pairs > limit:
            yield (
                f"{SAMPLED} markup, refusals, openings, languages, turns, categories; the "
                f"first {limit:,} of {self._pairs:,} rows"
            )

    def _missing(self) -> Iterator[str]:
        if self._plan.tokenize is None:
            yield (
                "not checked: truncation, the model's template, tokens per epoch; lengths are in "
                "characters: add --model"
            )
        if not self._plan.eval_name:
            yield "not checked: leakage of evaluation prompts: add --eval_dataset"


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    remaining = iter(rows)
    while chunk := list(islice(remaining, _CHUNK)):
        yield chunk


def _fitted(policy: LengthPolicy, pair: TokenizedPair, where: str) -> TokenizedPair | Dropped:
    try:
        return policy.fit(pair, where)
    except TooLongError as error:
        return Dropped("too_long", where, error.what)
