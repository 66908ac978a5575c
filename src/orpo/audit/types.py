"""What an audit says: findings with a verdict each, and the numbers that pictures are drawn from.

Everything here turns into JSON and back (`Audit.as_dict`, `Audit.from_dict`), so that the page is
drawn from the same file that machines read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["VERDICTS", "Audit", "Example", "Finding", "Histogram"]

VERDICTS = ("ok", "look", "stop")
"""From harmless to harmful: nothing to do, worth a look, do not train on this."""


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
        count: Rows found, or pairs of rows where `unit` says so.
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
class Audit:
    """An audit of one data set.

    Attributes:
        dataset: What was audited, as it was named.
        eval_dataset: What leakage was looked for in, or empty.
        model: Whose tokenizer counted tokens; empty if lengths are in characters.
        unit: "tokens" or "characters": what lengths are counted in.
        max_length: The limit that truncation was tried with, in tokens, or None.
        rows: The account of every row, as `Ledger.as_dict` gives it.
        findings: In the order in which checks are listed, whatever their verdicts.
        lengths: "prompt", "chosen" and "rejected" -> Histogram, on common edges.
        length_bias: How often the longer answer is chosen, by how much longer it is: a list of
            {"low": ratio, "high": ratio, "pairs": n, "longer_chosen": share or None}.
        truncation: What limits would do: a list of {"max_length": n, "cut": pairs,
            "dropped": pairs}, rising.
        languages: Name of a language or script -> rows.
        turns: Number of turns in the prompt -> rows.
        budget: Token sums and estimates by name: "tokens_per_epoch", "positions_per_epoch",
            "seconds_per_epoch", "tokens_per_second", "peak_bytes"; only what is known.
        notes: What was sampled, left out or not checked, one line each.
    """

    dataset: str
    findings: tuple[Finding, ...]
    rows: Mapping[str, Any]
    eval_dataset: str = ""
    model: str = ""
    unit: str = "characters"
    max_length: int | None = None
    lengths: Mapping[str, Histogram] = field(default_factory=dict)
    length_bias: tuple[Mapping[str, Any], ...] = ()
    truncation: tuple[Mapping[str, int], ...] = ()
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
        plain = asdict(self)
        for finding, made in zip(plain["findings"], self.findings, strict=True):
            finding["share"] = made.share
        return {"verdict": self.verdict, **plain}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Audit:
        """The audit that `as_dict` gave."""
        values = {k: v for k, v in plain.items() if k != "verdict"}
        values["findings"] = tuple(_finding(f) for f in plain["findings"])
        values["lengths"] = {
            name: Histogram(tuple(h["edges"]), tuple(h["counts"]))
            for name, h in plain["lengths"].items()
        }
        for name in ("length_bias", "truncation", "notes"):
            values[name] = tuple(plain[name])
        return cls(**values)


def _finding(plain: Mapping[str, Any]) -> Finding:
    values = {k: v for k, v in plain.items() if k != "share"}
    values["examples"] = tuple(Example(**e) for e in plain["examples"])
    return Finding(**values)
