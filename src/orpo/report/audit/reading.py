"""What an audit says, read from its JSON: whatever is missing or broken is left out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from orpo.report.values import lasting, mapping, number, records, rows, whole

__all__ = [
    "PARTS",
    "VERDICTS",
    "Account",
    "Bias",
    "Drop",
    "Finding",
    "Limit",
    "Place",
    "Spread",
    "account",
    "biases",
    "findings",
    "limits",
    "spreads",
    "tally",
]

VERDICTS = ("stop", "look", "ok")
"""As on the page: the most harmful first."""

PARTS = ("prompt", "chosen", "rejected")

_LONGEST = 600


@dataclass(frozen=True)
class Place:
    """A row that something is said about.

    Attributes:
        where: File and line, or data set and row.
        text: What is to be seen there.
        other: The place of the other row, where it takes two; else empty.
    """

    where: str
    text: str
    other: str = ""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: Its name for machines.
        title: Its name for people.
        verdict: One of `VERDICTS`.
        count: Rows, or pairs of rows, that were found.
        of: How many were looked at.
        share: `count` of `of`.
        says: What was found and what it means.
        do: What to do about it; may be empty.
        examples: The first few of what was found.
        figures: Further numbers by name.
    """

    check: str
    title: str
    verdict: str
    count: int
    of: int
    share: float
    says: str
    do: str
    examples: tuple[Place, ...]
    figures: dict[str, float]


@dataclass(frozen=True)
class Drop:
    """Rows that were dropped for one reason, with the first places to look."""

    reason: str
    count: int
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Account:
    """What became of every row.

    Attributes:
        format: How the rows were recognised; may be empty.
        rendering: How they were rendered; may be empty.
        rows_in: Rows read.
        kept: Pairs kept.
        nll_only: How many of those have no rejected answer.
        dropped: By reason, most frequent first.
        cut: Part -> pairs in which it was cut.
    """

    format: str
    rendering: str
    rows_in: int
    kept: int
    nll_only: int
    dropped: tuple[Drop, ...]
    cut: dict[str, int]

    @property
    def lost(self) -> int:
        """Rows dropped, for whatever reason."""
        return sum(drop.count for drop in self.dropped)


@dataclass(frozen=True)
class Spread:
    """How long one part of the pairs is.

    Attributes:
        part: One of `PARTS`.
        edges: n + 1 borders, rising.
        counts: n counts, not all of them 0.
    """

    part: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """How many were measured."""
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """The length that a share of them stays below, as well as ranges can tell."""
        left = share * self.total
        for low, high, count in zip(self.edges, self.edges[1:], self.counts, strict=False):
            if count and left <= count:
                return low + (high - low) * left / count
            left -= count
        return self.edges[-1]


@dataclass(frozen=True)
class Bias:
    """Pairs whose longer answer is longer by a ratio in a range.

    Attributes:
        low: Smallest ratio.
        high: Largest ratio, None if there is no limit.
        pairs: How many.
        share: How often the longer answer is the chosen one; None if there are no pairs.
    """

    low: float
    high: float | None
    pairs: int
    share: float | None


@dataclass(frozen=True)
class Limit:
    """What one `max_length` would do: pairs cut, pairs dropped."""

    max_length: int
    cut: int
    dropped: int


def findings(value: object) -> list[Finding]:
    """All findings, the worst verdict first, then in the order in which checks are listed."""
    found = [_finding(one) for one in records(value)]
    return sorted(found, key=lambda one: VERDICTS.index(one.verdict))


def tally(found: list[Finding]) -> dict[str, int]:
    """Verdict -> number of checks, for those that occur."""
    counts = {verdict: sum(one.verdict == verdict for one in found) for verdict in VERDICTS}
    return {verdict: count for verdict, count in counts.items() if count}


def account(value: object) -> Account:
    """The ledger of the rows."""
    plain = mapping(value)
    examples = mapping(plain.get("dropped_examples"))
    dropped = [
        Drop(str(reason), count, tuple(_dropped_at(one) for one in records(examples.get(reason))))
        for reason, count in _counts(plain.get("dropped")).items()
    ]
    return Account(
        format=lasting(str(plain.get("format") or ""), 80),
        rendering=lasting(str(plain.get("rendering") or ""), 80),
        rows_in=whole(plain.get("rows_in")) or 0,
        kept=whole(plain.get("kept")) or 0,
        nll_only=whole(plain.get("nll_only")) or 0,
        dropped=tuple(sorted(dropped, key=lambda drop: -drop.count)),
        cut=_counts(plain.get("cut")),
    )


def spreads(value: object) -> list[Spread]:
    """The length distributions that have anything in them."""
    found = [_spread(part, mapping(mapping(value).get(part))) for part in PARTS]
    return [one for one in found if one is not None]


def biases(value: object) -> list[Bias]:
    """How often the longer answer is chosen, by ratio; empty if no range has pairs in it."""
    found = [bias for one in records(value) if (bias := _bias(one)) is not None]
    if all(one.share is None for one in found):
        return []
    return sorted(found, key=lambda one: one.low)


def limits(value: object) -> list[Limit]:
    """What limits would do, rising."""
    found = [
        Limit(length, whole(one.get("cut")) or 0, whole(one.get("dropped")) or 0)
        for one in records(value)
        if (length := whole(one.get("max_length")))
    ]
    return sorted(found, key=lambda one: one.max_length)


def _finding(plain: dict[str, object]) -> Finding:
    verdict = plain.get("verdict")
    count, of = whole(plain.get("count")) or 0, whole(plain.get("of")) or 0
    figures = {name: number(one) for name, one in mapping(plain.get("figures")).items()}
    return Finding(
        check=str(plain.get("check") or ""),
        title=lasting(str(plain.get("title") or plain.get("check") or "Unnamed check"), 120),
        verdict=str(verdict) if verdict in VERDICTS else "look",
        count=count,
        of=of,
        share=min(1.0, count / of) if of else 0.0,
        says=lasting(str(plain.get("says") or ""), _LONGEST),
        do=lasting(str(plain.get("do") or ""), _LONGEST),
        examples=tuple(_example(one) for one in records(plain.get("examples"))),
        figures={name: one for name, one in figures.items() if one is not None},
    )


def _example(plain: dict[str, object]) -> Place:
    where, text, other = (str(plain.get(name) or "") for name in ("where", "text", "other"))
    return Place(lasting(where, 200), lasting(text, _LONGEST), lasting(other, 200))


def _dropped_at(plain: dict[str, object]) -> Place:
    where, detail = (str(plain.get(name) or "") for name in ("where", "detail"))
    return Place(lasting(where, 200), lasting(detail, 200))


def _counts(value: object) -> dict[str, int]:
    return {name: n for name, one in mapping(value).items() if (n := whole(one))}


def _spread(part: str, plain: dict[str, object]) -> Spread | None:
    edges = [number(one) for one in rows(plain.get("edges"))]
    counts = [whole(one) for one in rows(plain.get("counts"))]
    sound = [one for one in edges if one is not None and math.isfinite(one)]
    full = [one for one in counts if one is not None]
    if len(sound) != len(edges) or len(full) != len(counts) or len(sound) != len(full) + 1:
        return None
    if not any(full) or any(low >= high for low, high in pairwise(sound)):
        return None
    return Spread(part, tuple(sound), tuple(full))


def _bias(plain: dict[str, object]) -> Bias | None:
    low, high = number(plain.get("low")), number(plain.get("high"))
    share, pairs = number(plain.get("longer_chosen")), whole(plain.get("pairs")) or 0
    if low is None or not math.isfinite(low):
        return None
    if high is not None and not high > low:
        return None  # answers of one length have no longer one
    known = share is not None and 0 <= share <= 1 and pairs > 0
    return Bias(
        low, high if high is not None and high < 1e6 else None, pairs, share if known else None
    )
