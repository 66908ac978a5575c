"""An audit: one pass over the rows, whose texts are not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice

from orpo.audit.checks import Checks
from orpo.audit.faults import count_texts
from orpo.audit.findings import (
    EXAMPLES,
    Audit,
    Example,
    Finding,
    Rule,
    Tally,
    amount,
    clip,
    percent,
)
from orpo.audit.lengths import Lengths, TokenCounts, truncation_of
from orpo.audit.views import PairView, view
from orpo.data.asked import CHANGES, decide, told_of_changes
from orpo.data.lengths import LengthPolicy, TooLongError
from orpo.data.reading import PairReaders, is_tokenised
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Dropped, Ledger, PreferencePair, Row, TokenizedPair
from orpo.errors import DataError

FEW_PAIRS = 500
"""Fewer pairs are learnt by heart before anything else changes; published runs use thousands."""

CONTENT_ROWS = 20_000
"""Rows whose texts a quick audit looks at: what is true of a data set shows in so many. Repeated
rows, identical answers and leaked prompts are looked for among all."""

# A few broken rows are slips; one in twenty says that the file is in another format in part.
UNREADABLE = Rule(
    "unreadable_rows",
    "Rows that cannot be read",
    look=0.0,
    stop=0.05,
    none="Every row can be read.",
    do="Correct them, or train with --on_bad_row drop.",
)
# One row in twenty does not reach the training, for whatever reasons; what is left may differ.
LOST = Rule(
    "lost_rows",
    "Rows lost before training",
    look=0.05,
    stop=1.0,
    none="Every row would be trained on.",
    do="See why rows are dropped.",
    quiet=True,
)

_BY_TEMPLATE = {
    "template_error": "refused by the template",
    "empty_after_template": "an answer that the template leaves nothing of",
    "identical_after_template": "answers whose difference the template leaves out",
}
"""Reason for which a row is dropped -> what the template does to it."""

_NOT_IN_MIX, _BROKEN = "not_in_mix", ("unreadable", "malformed")
_SAMPLED = "looked at in a sample: lengths,"
_CHUNK = 256
_NEWS = 20_000


@dataclass(frozen=True)
class AuditPlan:
    """What an audit looks at.

    Attributes:
        name: What is audited, as it was named; `eval_name` likewise, empty if there is none.
        lengths: The limits that truncation is tried with.
        tokenize: Tokenises without a limit, with the tokenizer of `model`; None if there is none.
        near: Look for near duplicates too.
        data_format: As in `PairReader`; so is `pair_rule`.
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
    say: Callable[[str], None] | None = None,
) -> Audit:
    """Audit a data set, whose rows are read once; `eval_rows` are looked for leaked prompts."""
    first, remaining = _peek(rows)
    if first is not None and is_tokenised(first.values):
        raise DataError(
            "holds token ids, and an audit reads texts",
            where=plan.name,
            fix="Audit the data that they were made of.",
        )
    auditor = _Auditor(plan, leakage=eval_rows is not None)
    if eval_rows is not None:
        auditor.hold(eval_rows)
    while chunk := list(islice(remaining, _CHUNK)):
        before = auditor.ledger.rows_in
        auditor.add(chunk)
        if say and before // _NEWS < auditor.ledger.rows_in // _NEWS:
            say(f"{amount(auditor.ledger.rows_in, 'row')} read")
    return auditor.audit()


def quick_audit(
    name: str,
    rows: Iterable[Row],
    eval_rows: Iterable[Row] | None = None,
    *,
    account: Ledger | None = None,
    data_format: str = "",
    pair_rule: str = "best_worst",
) -> Audit:
    """All checks that need neither tokens nor a comparison of rows by their words: for a training.

    `account` is what became of the rows as they were tokenised, if that is known. Rows that are
    token ids already give no findings; beyond `CONTENT_ROWS` rows a note says what was sampled.
    """
    first, remaining = _peek(rows)
    if first is not None and is_tokenised(first.values):
        note = "not checked: these data are token ids, and the checks read texts"
        return Audit(name, (), account or Ledger(), notes=(note,))
    plan = AuditPlan(
        name,
        near=False,
        eval_name="" if eval_rows is None else "eval_dataset",
        data_format=data_format,
        pair_rule=pair_rule,
        content_rows=CONTENT_ROWS,
    )
    audit = audit_rows(plan, remaining, eval_rows)
    audit = replace(audit, notes=tuple(n for n in audit.notes if n.startswith(_SAMPLED)))
    if account is None:
        return audit
    counted = _accounts(account, left_out=True)
    findings = (*counted, *audit.findings[len(counted) :], truncation_of(account))
    return replace(audit, rows=account, findings=findings)


def headlines(audit: Audit, count: int = 3) -> list[str]:
    """The most important findings, one line each, and below them what was sampled."""
    lines = [f"{f.verdict}: {f.says} {f.do}".strip() for f in audit.worst(count)]
    return [*lines, *(note for note in audit.notes if lines)]


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
            for number, seen in enumerate(views):
                count_texts(self.ledger, seen)
                if number < within:
                    other = None if seen.rejected is None else len(seen.rejected)
                    self._lengths.add(len(seen.prompt), len(seen.chosen), other)
        else:
            self._add_tokens(self._plan.tokenize, pairs, views)

    def _add_tokens(
        self, tokenize: PairTokenizer, pairs: list[PreferencePair], views: list[PairView]
    ) -> None:
        start = tokenize.tokenizer.bos_token_id
        for outcome, seen in zip(tokenize.batch(pairs), views, strict=True):
            if isinstance(outcome, Dropped):
                self.ledger.count(outcome)
                if outcome.reason in _BY_TEMPLATE:
                    kind = _BY_TEMPLATE[outcome.reason]
                    self._checks.add_fault(seen.where, outcome.detail, kind)
                continue
            for change in outcome.lost:
                self._checks.add_fault(seen.where, CHANGES[change], CHANGES[change])
            self.ledger.count(_fitted(self._plan.lengths, outcome, seen.where))
            self._tokens.add(outcome)
            answer = len(outcome.rejected_ids) if outcome.rejected_ids else None
            self._lengths.add(len(outcome.prompt_ids), len(outcome.chosen_ids), answer)
            if start is not None and outcome.prompt_ids[:2] == [start, start]:
                kind = "two beginning-of-sequence tokens"
                self._checks.add_fault(seen.where, seen.prompt, kind)

    def audit(self) -> Audit:
        """What was found, when all rows were read."""
        self._read.require_readable()
        plan, tokens = self._plan, self._tokens
        self.ledger.format = " + ".join(self._read.formats)
        findings = [*_accounts(self.ledger), *self._checks.findings(), self._lengths.finding()]
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
            languages=self._checks.languages,
            turns=self._checks.turns,
            budget=tokens.budget(plan.lengths) if len(tokens) else {},
            notes=(*self._not_checked(), *self._checks.notes, *self._notes),
        )

    def _not_checked(self) -> Iterator[str]:
        """What the template does, with what may be done about it, and what was not looked at."""
        plan, ledger = self._plan, self.ledger
        if plan.tokenize is not None:
            template = plan.tokenize.template
            yield from told_of_changes(template, ledger.changed, ledger.kept)
            decision = decide(template, ledger.after, {})
            yield from decision.notes() if decision is not None else ()
        limit = plan.content_rows
        if limit is not None and self._pairs > limit:
            yield (
                f"{_SAMPLED} markup, refusals, openings, languages, turns, categories; the "
                f"first {limit:,} of {self._pairs:,} rows"
            )
        if plan.tokenize is None:
            yield (
                "not checked: truncation, the model's template, tokens per epoch; lengths are in "
                "characters: add --model"
            )
        if not plan.eval_name:
            yield "not checked: leakage of evaluation prompts: add --eval_dataset"


def _accounts(ledger: Ledger, *, left_out: bool = False) -> list[Finding]:
    """What the account says: rows that cannot be read, rows lost, and whether enough are left.

    `left_out` says that a training leaves unreadable rows out already.
    """
    bad = Tally(ledger.rows_in, sum(ledger.dropped[reason] for reason in _BROKEN))
    examples = [one for reason in _BROKEN for one in ledger.examples.get(reason, [])]
    bad.examples = [Example(one.where, clip(one.detail)) for one in examples[:EXAMPLES]]
    told = f"{amount(bad.count, 'row')} ({percent(bad.count / max(1, bad.of))}) cannot be read as "
    rule = replace(UNREADABLE, do="Correct them: they are left out.") if left_out else UNREADABLE
    rows = ledger.rows_in - ledger.dropped[_NOT_IN_MIX]
    lost = Tally(rows, rows - ledger.kept)
    reasons = ", ".join(
        f"{n:,} {reason.replace('_', ' ')}"
        for reason, n in ledger.dropped.most_common()
        if reason != _NOT_IN_MIX
    )
    gone = f"{lost.count:,} of {amount(rows, 'row')} are dropped ({reasons})."
    return [
        rule.finding(bad, f"{told}preference pairs." if bad.count else ""),
        LOST.finding(lost, gone if lost.count else "", {"kept": float(ledger.kept)}),
        _enough(ledger),
    ]


def _enough(ledger: Ledger) -> Finding:
    """Whether enough pairs are left to train on."""
    alone, pairs = ledger.nll_only, ledger.kept - ledger.nll_only
    beside = f" and {amount(alone, 'row')} without rejected answer" * bool(alone)
    do = (
        f"Collect more: below {FEW_PAIRS} pairs little is learnt."
        if pairs
        else "Give rows a rejected answer: orpo train refuses data without."
        if ledger.kept
        else "See why rows are dropped."
    )
    return Rule("few_pairs", "Number of pairs", 0, 1, do=do, quiet=True).finding(
        Tally(ledger.kept, pairs),
        f"{amount(pairs, 'pair')}{beside} would be trained on.",
        {"pairs": float(pairs), "nll_only": float(alone)},
        verdict="stop" if not pairs else "look" if pairs < FEW_PAIRS else "ok",
    )


def _peek(rows: Iterable[Row]) -> tuple[Row | None, Iterator[Row]]:
    """The first row, and all rows."""
    remaining = iter(rows)
    first = next(remaining, None)
    return first, remaining if first is None else chain([first], remaining)


def _fitted(policy: LengthPolicy, pair: TokenizedPair, where: str) -> TokenizedPair | Dropped:
    try:
        return policy.fit(pair, where)
    except TooLongError as error:
        return Dropped("too_long", where, error.what)
