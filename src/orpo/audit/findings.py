"""What an audit says: findings with a verdict each, and the numbers that pictures are drawn from.

Everything here turns into JSON and back (`Audit.as_dict`, `Audit.from_dict`), so that a page can be
drawn of an audit that was saved.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from orpo.data.types import Ledger
from orpo.errors import DataError
from orpo.quantities import as_count, as_share
from orpo.runs.typed import typed

if TYPE_CHECKING:
    from orpo.audit.faults import PairView

VERDICTS = ("ok", "look", "stop")
"""From harmless to harmful: nothing to do, worth a look, do not train on this."""

EXAMPLES = 5
"""Rows of each finding that are shown."""

RULES: dict[str, Any] = tomllib.loads(
    Path(__file__).with_name("checks.toml").read_text(encoding="utf-8")
)
"""Check -> its thresholds and sentences."""

_SHOWN = 240


@dataclass(frozen=True)
class Example:
    """One row that a finding is about."""

    where: str  # file and line, or data set and row
    text: str  # what is to be seen there, at most a few hundred characters
    other: str = ""  # the place of the other row, where it takes two (duplicates, leakage)


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    check: str  # for machines, such as "identical_answers"
    title: str  # for people, such as "Identical answers"
    verdict: str  # one of `VERDICTS`
    count: int  # rows found
    of: int  # rows looked at; less than all of them where a check takes a sample
    says: str  # what was found and what it means, in a sentence or two
    do: str = ""  # what to do about it, a command where there is one; may be nothing
    examples: tuple[Example, ...] = ()  # the first few of what was found
    figures: Mapping[str, float] = field(default_factory=dict)  # by name, such as {"auc": 0.77}

    @property
    def share(self) -> float:
        """`count` of `of`, 0 if nothing was looked at."""
        return self.count / self.of if self.of else 0.0


@dataclass(frozen=True)
class Histogram:
    """How often a quantity takes values within ranges."""

    edges: tuple[float, ...]  # n + 1 borders, rising
    counts: tuple[int, ...]  # n; a value on a border belongs to the range above it


@dataclass(frozen=True)
class Bias:
    """Pairs whose longer answer is longer by a ratio from `low` to `high` (None: or more)."""

    low: float
    high: float | None
    pairs: int
    longer_chosen: float | None  # how often the longer answer is chosen; None without pairs


@dataclass(frozen=True)
class Limit:
    """What one `max_length` would do: pairs cut, pairs dropped."""

    max_length: int
    cut: int
    dropped: int


@dataclass(frozen=True)
class Audit:
    """An audit of one data set."""

    dataset: str  # as it was named
    findings: tuple[Finding, ...]  # in the order in which checks are listed
    rows: Ledger  # the account of every row
    eval_dataset: str = ""  # what leakage was looked for in, or empty
    model: str = ""  # whose tokenizer counted tokens; empty if lengths are in characters
    unit: str = "characters"  # or "tokens": what lengths are counted in
    max_length: int | None = None  # that truncation was tried with, in tokens
    lengths: Mapping[str, Histogram] = field(default_factory=dict)  # of each part, common edges
    length_bias: tuple[Bias, ...] = ()  # by how much longer the longer answer is
    truncation: tuple[Limit, ...] = ()  # what limits would do, rising
    languages: Mapping[str, int] = field(default_factory=dict)  # language or script -> rows
    turns: Mapping[str, int] = field(default_factory=dict)  # turns in the prompt -> rows
    # "tokens_per_epoch", "positions_per_epoch", "seconds_per_epoch", "tokens_per_second",
    # "peak_bytes" and others; only what is known.
    budget: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what was sampled, left out or not checked, one line each

    @property
    def verdict(self) -> str:
        """The worst verdict of all findings."""
        return worst(*(finding.verdict for finding in self.findings))

    def worst(self, count: int) -> list[Finding]:
        """The most important findings that are not "ok": the worst verdict, the largest share."""
        told = [f for f in self.findings if f.verdict != "ok"]
        return sorted(told, key=lambda f: (-VERDICTS.index(f.verdict), -f.share))[:count]

    def as_dict(self) -> dict[str, Any]:
        """The audit for JSON, with the overall verdict and each finding's share."""
        plain = asdict(replace(self, rows=Ledger())) | {"rows": self.rows.as_dict()}
        for finding, made in zip(plain["findings"], self.findings, strict=True):
            finding["share"] = made.share
        return {"verdict": self.verdict, **plain}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], where: str = "audit") -> Audit:
        """The audit that `as_dict` gave, also one that an earlier version wrote."""
        found = typed(cls, {**plain, "rows": {}}, where=where)
        try:
            rows = Ledger.from_dict({**Ledger().as_dict(), **plain["rows"]})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError("'rows' is no account of rows", where=where) from error
        return replace(found, rows=rows)


class Count(int):
    """A number as sentences have it: `{n}` is "1,200", `{n:row}` "1 row", `{n:has|have}` a word."""

    def __format__(self, form: str) -> str:
        if "|" in form:
            return form.split("|")[self != 1]
        return as_count(self, form) if form.isidentifier() or " " in form else f"{int(self):,}"


class Share(float):
    """A number that is a share unless its format says otherwise."""

    def __format__(self, form: str) -> str:
        return format(float(self), form) if form else as_share(self)


Told: TypeAlias = tuple[Mapping[str, float], Mapping[str, Any]]
"""The figures of a finding, and what stands in its sentences."""


class Check:
    """A check: its rule in `checks.toml`, and what it has counted.

    It is given pairs one by one (`add`), and in the end says what it found (`finding`).
    """

    name = ""

    def __init__(self, name: str = "") -> None:
        self.name = name or self.name
        self.rule = RULES[self.name]
        self.of = self.count = 0  # rows that were looked at, and found
        self.kinds: Counter[Any] = Counter()  # what else is worth counting
        self.examples: list[Example] = []

    def add(self, pair: PairView) -> None:
        """Look at a pair."""
        if pair.rejected is not None or not self.rule.get("paired"):
            self.of += 1
        self._look(pair)

    def finding(self) -> Finding | None:
        """What was found; None where it is not worth a word."""
        told = self._told()
        return None if told is None else self.outcome(*told)

    def _look(self, pair: PairView) -> None:
        raise NotImplementedError

    def _told(self) -> Told | None:
        return {}, {}

    def found(self, where: str, text: str, other: str = "") -> None:
        """Count a row; `text` is shown if it is one of the first."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(Example(where, clip(text), other))

    @property
    def share(self) -> float:
        """Found of looked at."""
        return self.count / max(1, self.of)

    @property
    def something(self) -> bool:
        """Whether there is more to say than that nothing was found."""
        return self.count > 0

    def outcome(
        self,
        figures: Mapping[str, float],
        told: Mapping[str, Any],
        *,
        verdict: str = "",
        do: str = "do",
    ) -> Finding:
        """The finding, in the words of the rule; the share decides the verdict if nothing else."""
        rule = self.rule
        words = {"count": self.count, "of": self.of, "share": self.share, **told}
        verdict = verdict or grade(self.share, rule.get("look", 0.0), rule.get("stop", 1.0))
        advised = verdict != "ok" or (self.count > 0 and not rule.get("quiet"))
        says = rule["says"] + rule.get("more", "") * bool(self.count)
        return Finding(
            self.name,
            in_words(rule["title"], words),
            verdict,
            self.count,
            self.of,
            in_words(says if self.something else rule.get("none", says), words),
            in_words(rule[do], words) if advised else "",
            tuple(self.examples),
            {name: float(value) for name, value in figures.items()},
        )


def in_words(sentence: str, words: Mapping[str, Any]) -> str:
    """A sentence of a rule with what stands in it."""
    kinds = {int: Count, float: Share}
    return sentence.format(**{k: kinds.get(type(v), type(v))(v) for k, v in words.items()})


def grade(share: float, look: float, stop: float) -> str:
    """The verdict on a share: "ok" below `look`, "stop" from `stop` on."""
    if share >= stop:
        return "stop"
    return "look" if share > 0 and share >= look else "ok"


def worst(*verdicts: str) -> str:
    """The worst of some verdicts."""
    return max(verdicts, key=VERDICTS.index, default="ok")


def clip(text: str) -> str:
    """The beginning of a text on one line, to show."""
    line = " ".join(text[: 4 * _SHOWN].split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
