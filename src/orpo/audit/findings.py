"""What an audit says: findings with a verdict each, and the numbers that pictures are drawn from.

Everything here turns into JSON and back (`Audit.as_dict`, `Audit.from_dict`), so that a page can be
drawn of an audit that was saved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from orpo.data.types import Ledger
from orpo.errors import DataError
from orpo.runs.typed import typed

VERDICTS = ("ok", "look", "stop")
"""From harmless to harmful: nothing to do, worth a look, do not train on this."""

EXAMPLES = 5
"""Rows of each finding that are shown."""

_SHOWN = 240


@dataclass(frozen=True)
class Example:
    """One row that a finding is about.

    Attributes:
        where: File and line, or data set and row.
        text: What is to be seen there, at most a few hundred characters.
        other: The place of the other row, where it takes two (duplicates, leakage); else empty.
    """

    where: str
    text: str
    other: str = ""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: Its name for machines, such as "identical_answers".
        title: Its name for people, such as "Identical answers".
        verdict: One of `VERDICTS`.
        count: Rows found.
        of: Rows that were looked at; less than all of them where a check takes a sample.
        says: What was found and what it means, in a sentence or two.
        do: What to do about it, a command where there is one; empty if there is nothing to do.
        examples: The first few of what was found.
        figures: Further numbers by name, such as {"longer_chosen": 0.81, "auc": 0.77}.
    """

    check: str
    title: str
    verdict: str
    count: int
    of: int
    says: str
    do: str = ""
    examples: tuple[Example, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """`count` of `of`, 0 if nothing was looked at."""
        return self.count / self.of if self.of else 0.0


@dataclass(frozen=True)
class Histogram:
    """How often a quantity takes values within ranges.

    Attributes:
        edges: n + 1 borders, rising.
        counts: n counts; a value on a border belongs to the range above it.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Bias:
    """Pairs whose longer answer is longer by a ratio from `low` to `high` (None: or more).

    `longer_chosen` is how often the longer answer is the chosen one; None if there are no pairs.
    """

    low: float
    high: float | None
    pairs: int
    longer_chosen: float | None


@dataclass(frozen=True)
class Limit:
    """What one `max_length` would do: pairs cut, pairs dropped."""

    max_length: int
    cut: int
    dropped: int


@dataclass(frozen=True)
class Audit:
    """An audit of one data set.

    Attributes:
        dataset: What was audited, as it was named.
        findings: In the order in which checks are listed, whatever their verdicts.
        rows: The account of every row.
        eval_dataset: What leakage was looked for in, or empty.
        model: Whose tokenizer counted tokens; empty if lengths are in characters.
        unit: "tokens" or "characters": what lengths are counted in.
        max_length: The limit that truncation was tried with, in tokens, or None.
        lengths: "prompt", "chosen" and "rejected" -> Histogram, on common edges.
        length_bias: How often the longer answer is chosen, by how much longer it is.
        truncation: What limits would do, rising.
        languages: Name of a language or script -> rows.
        turns: Number of turns in the prompt -> rows.
        budget: Token sums and estimates by name: "tokens_per_epoch", "positions_per_epoch",
            "seconds_per_epoch", "tokens_per_second", "peak_bytes"; only what is known.
        notes: What was sampled, left out or not checked, one line each.
    """

    dataset: str
    findings: tuple[Finding, ...]
    rows: Ledger
    eval_dataset: str = ""
    model: str = ""
    unit: str = "characters"
    max_length: int | None = None
    lengths: Mapping[str, Histogram] = field(default_factory=dict)
    length_bias: tuple[Bias, ...] = ()
    truncation: tuple[Limit, ...] = ()
    languages: Mapping[str, int] = field(default_factory=dict)
    turns: Mapping[str, int] = field(default_factory=dict)
    budget: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """The worst verdict of all findings."""
        return max((f.verdict for f in self.findings), key=VERDICTS.index, default="ok")

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
        """The audit that `as_dict` gave, also one that an earlier version wrote.

        Raises:
            DataError: It is not such an object; `where` is its file, for the message.
        """
        found = typed(cls, {**plain, "rows": {}}, where=where)
        try:
            rows = Ledger.from_dict({**Ledger().as_dict(), **plain["rows"]})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError("'rows' is no account of rows", where=where) from error
        return replace(found, rows=rows)


@dataclass
class Tally:
    """How many rows were looked at and found, what else was counted, and the first found."""

    of: int = 0
    count: int = 0
    kinds: Counter[Any] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)

    def add(self, where: str, text: str, other: str = "") -> None:
        """Count a row as found; `text` is shown if it is one of the first."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(Example(where, clip(text), other))

    @property
    def share(self) -> float:
        """Found of looked at."""
        return self.count / max(1, self.of)


@dataclass(frozen=True)
class Rule:
    """A check: its names, from which share on it is how bad, and its words where all is well.

    Attributes:
        check: Name for machines.
        title: Name for people.
        look: Share from which on it is worth a look; 0: any.
        stop: Share from which on the data are not to be trained on.
        none: What is said where nothing was found.
        do: What to do about what was found.
        quiet: Say what to do only where the verdict is not "ok".
    """

    check: str
    title: str
    look: float
    stop: float
    none: str = ""
    do: str = ""
    quiet: bool = False

    def finding(
        self,
        found: Tally,
        says: str,
        figures: Mapping[str, float] | None = None,
        *,
        verdict: str = "",
    ) -> Finding:
        """The outcome; `says` is empty where nothing was found."""
        verdict = verdict or grade(found.share, self.look, self.stop)
        advised = verdict != "ok" or (found.count > 0 and not self.quiet)
        return Finding(
            self.check,
            self.title,
            verdict,
            found.count,
            found.of,
            says or self.none,
            self.do if advised else "",
            tuple(found.examples),
            figures or {},
        )


def grade(share: float, look: float, stop: float) -> str:
    """The verdict on a share: "ok" below `look`, "stop" from `stop` on."""
    if share >= stop:
        return "stop"
    return "look" if share > 0 and share >= look else "ok"


def worse(*verdicts: str) -> str:
    """The worst of some verdicts."""
    return max(verdicts, key=VERDICTS.index)


def percent(share: float) -> str:
    """A share in words; what is not 0 does not look like 0."""
    return "under 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def amount(count: int, noun: str) -> str:
    """A number with its noun: "1 row", "1,200 rows"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def clip(text: str) -> str:
    """The beginning of a text on one line, to show."""
    line = " ".join(text[: 4 * _SHOWN].split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
