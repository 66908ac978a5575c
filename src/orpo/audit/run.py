"""An audit: one pass over the rows, whose texts are not kept."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice

from orpo.audit import checks, repeats
from orpo.audit.faults import PairView, count_texts, view
from orpo.audit.findings import EXAMPLES, Audit, Check, Example, Finding, clip, in_words
from orpo.audit.lengths import Lengths, TokenCounts, truncation_of
from orpo.audit.similar import minhash_available
from orpo.data.asked import CHANGES, decide, told_of_changes
from orpo.data.lengths import LengthPolicy, TooLongError
from orpo.data.reading import PairReaders, is_tokenised
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Dropped, Ledger, PreferencePair, Row, TokenizedPair
from orpo.errors import DataError
from orpo.quantities import as_count
from orpo.terminal import under_way

CONTENT_ROWS = 20_000
"""Rows whose texts a quick audit looks at: what is true of a data set shows in so many. Repeated
rows, identical answers and leaked prompts are looked for among all."""

_BY_TEMPLATE = {
    "template_error": "refused by the template",
    "empty_after_template": "an answer that the template leaves nothing of",
    "identical_after_template": "answers whose difference the template leaves out",
}
"""Reason for which a row is dropped -> what the template does to it."""

_NOT_IN_MIX, _BROKEN = "not_in_mix", ("unreadable", "malformed")
_SAMPLED = "looked at in a sample: lengths,"
_CHUNK = 256


@dataclass(frozen=True)
class AuditPlan:
    """What an audit looks at."""

    name: str  # what is audited, as it was named
    lengths: LengthPolicy = field(default_factory=LengthPolicy)  # that truncation is tried with
    tokenize: PairTokenizer | None = None  # without a limit, with the tokenizer of `model`
    model: str = ""
    eval_name: str = ""  # as `name`; empty if there is no evaluation data
    near: bool = True  # look for near duplicates too
    data_format: str = ""  # as in `PairReader`, and so is `pair_rule`
    pair_rule: str = "best_worst"
    content_rows: int | None = None  # rows whose texts are looked at; None for all


def audit_rows(
    plan: AuditPlan, rows: Iterable[Row], eval_rows: Iterable[Row] | None = None
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
    with under_way("auditing") as advance:
        while chunk := list(islice(remaining, _CHUNK)):
            auditor.add(chunk)
            advance(len(chunk))
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
        self.ledger, self._plan = Ledger(plan.name), plan
        self._read = self._readers()
        self._lengths = Lengths("tokens" if plan.tokenize else "characters")
        self._tokens, self._pairs, self._notes = TokenCounts(), 0, list[str]()
        near = plan.near and minhash_available()
        if plan.near and not near:
            what = "near duplicates and nearly leaked prompts; pip install 'orpo[data]'"
            self._notes.append(f"not checked: {what}")
        self._template, self._languages = checks.Template(), checks.Languages()
        self._turns, self._duplicates = checks.Turns(), repeats.Duplicates()
        self._near = repeats.NearDuplicates() if near else None
        self._leakage = repeats.Leakage() if leakage else None
        self._near_leakage = repeats.NearLeakage() if leakage and near else None
        listed: tuple[Check | None, ...] = (
            *(checks.NoRejected(), checks.EmptyTexts(), checks.IdenticalAnswers()),
            *(self._duplicates, repeats.Contradictions(self._duplicates), self._near),
            *(self._leakage, self._near_leakage, self._template, checks.Refusals()),
            *(checks.Openings(), self._languages, self._turns, checks.Categories()),
            *(checks.Scores(), checks.Weights()),
        )
        self._checks = [check for check in listed if check is not None]

    def _readers(self) -> PairReaders:
        return PairReaders(self._plan.data_format, "drop", self._plan.pair_rule)

    def hold(self, rows: Iterable[Row]) -> None:
        """Read the evaluation data."""
        read, bad = self._readers(), 0
        for row in rows:
            pair = read(row)
            if isinstance(pair, Dropped):
                bad += 1
                continue
            seen = view(pair)
            for check in (self._leakage, self._near_leakage):
                if check is not None:
                    check.hold(seen)
        read.require_readable()
        if bad:
            self._notes.append(f"{self._plan.eval_name}: {as_count(bad, 'row')} cannot be read")

    def add(self, rows: Sequence[Row]) -> None:
        """Look at some rows."""
        limit, tokenize = self._plan.content_rows, self._plan.tokenize
        pairs: list[PreferencePair] = []
        for pair in map(self._read, rows):
            if isinstance(pair, Dropped):
                self.ledger.count(pair)
            else:
                pairs.append(pair)
        views = [view(pair) for pair in pairs]
        for seen in views:
            content = limit is None or self._pairs < limit
            self._pairs += 1
            self._check(seen, content=content)
            if tokenize is None:
                count_texts(self.ledger, seen)
                if content:
                    other = None if seen.rejected is None else len(seen.rejected)
                    self._lengths.keep(len(seen.prompt), len(seen.chosen), other)
        if tokenize is not None:
            self._add_tokens(tokenize, pairs, views)

    def _check(self, seen: PairView, *, content: bool) -> None:
        """Look at a training pair; without `content` only at what is there and what repeats."""
        before = self._duplicates.count
        for check in self._checks:
            repeated = check is self._near and self._duplicates.count > before
            if not repeated and (content or not check.rule.get("content")):
                check.add(seen)

    def _add_tokens(
        self, tokenize: PairTokenizer, pairs: list[PreferencePair], views: list[PairView]
    ) -> None:
        start, fault = tokenize.tokenizer.bos_token_id, self._template.fault
        for outcome, seen in zip(tokenize.batch(pairs), views, strict=True):
            if isinstance(outcome, Dropped):
                self.ledger.count(outcome)
                if outcome.reason in _BY_TEMPLATE:
                    fault(seen.where, outcome.detail, _BY_TEMPLATE[outcome.reason])
                continue
            for change in outcome.lost:
                fault(seen.where, CHANGES[change], CHANGES[change])
            self.ledger.count(_fitted(self._plan.lengths, outcome, seen.where))
            self._tokens.add(outcome)
            answer = len(outcome.rejected_ids) if outcome.rejected_ids else None
            self._lengths.keep(len(outcome.prompt_ids), len(outcome.chosen_ids), answer)
            if start is not None and outcome.prompt_ids[:2] == [start, start]:
                fault(seen.where, seen.prompt, "two beginning-of-sequence tokens")

    def audit(self) -> Audit:
        """What was found, when all rows were read."""
        self._read.require_readable()
        plan, tokens = self._plan, self._tokens
        self.ledger.format = " + ".join(self._read.formats)
        found = [*_accounts(self.ledger), *(check.finding() for check in self._checks)]
        found.append(self._lengths.finding())
        if len(tokens):
            found.append(tokens.finding(plan.lengths))
        turns = sorted(self._turns.kinds.items())
        return Audit(
            dataset=plan.name,
            findings=tuple(finding for finding in found if finding is not None),
            rows=self.ledger,
            eval_dataset=plan.eval_name,
            model=plan.model,
            unit=self._lengths.unit,
            max_length=plan.lengths.max_length if plan.tokenize else None,
            lengths=self._lengths.histograms(),
            length_bias=self._lengths.curve(),
            truncation=tokens.limits(plan.lengths) if len(tokens) else (),
            languages=dict(self._languages.kinds.most_common()),
            turns={str(count): rows for count, rows in turns},
            budget=tokens.budget(plan.lengths) if len(tokens) else {},
            notes=tuple(self._told()),
        )

    def _told(self) -> Iterator[str]:
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
        for near, what in ((self._near, "duplicates"), (self._near_leakage, "leaked prompts")):
            if near is not None and near.left_out:
                yield (
                    f"near {what} were looked for among the first {repeats.NEAR_ROWS:,} rows; "
                    f"{near.left_out:,} further ones were left out"
                )
        yield from self._notes


def _accounts(ledger: Ledger, *, left_out: bool = False) -> list[Finding]:
    """What the account says: rows that cannot be read, rows lost, and whether enough are left.

    `left_out` says that a training leaves unreadable rows out already.
    """
    bad, lost, enough = map(Check, ("unreadable_rows", "lost_rows", "few_pairs"))
    bad.of, bad.count = ledger.rows_in, sum(ledger.dropped[reason] for reason in _BROKEN)
    examples = [one for reason in _BROKEN for one in ledger.examples.get(reason, [])]
    bad.examples = [Example(one.where, clip(one.detail)) for one in examples[:EXAMPLES]]
    lost.of = ledger.rows_in - ledger.dropped[_NOT_IN_MIX]
    lost.count = lost.of - ledger.kept
    reasons = ", ".join(
        f"{n:,} {reason.replace('_', ' ')}"
        for reason, n in ledger.dropped.most_common()
        if reason != _NOT_IN_MIX
    )
    alone, pairs = ledger.nll_only, ledger.kept - ledger.nll_only
    enough.of, enough.count, least = ledger.kept, pairs, enough.rule["enough"]
    beside = in_words(enough.rule["beside"], {"alone": alone}) if alone else ""
    return [
        bad.outcome({}, {}, do="left_out" if left_out else "do"),
        lost.outcome({"kept": ledger.kept}, {"reasons": reasons}),
        enough.outcome(
            {"pairs": pairs, "nll_only": alone},
            {"beside": beside, "enough": least},
            verdict="stop" if not pairs else "look" if pairs < least else "ok",
            do="do" if pairs else "unpaired" if ledger.kept else "lost",
        ),
    ]


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
