"""What `orpo data fix` is asked for, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo.audit.findings import amount
from orpo.audit.repair import CHECKS, kind_of
from orpo.errors import ConfigError

__all__ = ["DEDUPLICATIONS", "FixJob", "FixResult"]

DEDUPLICATIONS = ("exact", "near", "none")


@dataclass(frozen=True)
class FixJob:
    """What `orpo data fix` needs.

    Attributes:
        dataset: A file, a folder or a Hub id.
        output: The cleaned copy: .jsonl, .jsonl.gz or .parquet.
        drop: Checks out of `orpo.audit.repair.CHECKS` that drop rows.
        deduplicate: "exact" drops rows that repeat another word for word, "near" also those that
            nearly do, "none" neither.
        min_score_margin: Least difference of both answers' scores, or None.
        balance: "length", a column, or empty.
        balance_ratio: How many times the rows of the smallest category another one may have.
        held_out: Share of the prompts to hold out, 0 for none.
        held_out_output: Where held-out rows go; beside `output` if it is None.
        ledger: Where changes are written down; beside `output` if it is None.
        seed: Draws what is balanced away and what is held out.
        overwrite: Whether files of these names may be replaced.
        tokenizer: Folder or Hub id of a tokenizer or its model, for lengths in tokens; or None.

    Raises:
        ConfigError: A value that cannot be meant.
    """

    dataset: str
    output: Path
    drop: tuple[str, ...] = CHECKS
    deduplicate: str = "exact"
    min_score_margin: float | None = None
    balance: str = ""
    balance_ratio: float = 1.0
    held_out: float = 0.0
    held_out_output: Path | None = None
    ledger: Path | None = None
    seed: int = 42
    overwrite: bool = False
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without reading anything."""
        for name in self.drop:
            _one_of(name, CHECKS, "--drop")
        _one_of(self.deduplicate, DEDUPLICATIONS, "--deduplicate")
        if not 0 <= self.held_out < 1:
            raise ConfigError(
                f"must be at least 0 and below 1, is {self.held_out}", where="--held_out"
            )
        if self.held_out_output is not None and not self.held_out:
            raise ConfigError(
                "needs --held_out, the share to hold out",
                where="--held_out_output",
                fix="Add --held_out 0.05.",
            )
        if not self.balance_ratio >= 1:
            raise ConfigError(
                f"must be at least 1, is {self.balance_ratio}", where="--balance_ratio"
            )
        margin = self.min_score_margin
        if margin is not None and not abs(margin) < float("inf"):
            raise ConfigError(f"must be a number, is {margin}", where="--min_score_margin")

    @property
    def targets(self) -> dict[str, Path]:
        """What is written: the copy, the held-out rows if there are any, and the ledger."""
        stem = self.output.name.removesuffix(kind_of(self.output))
        beside = self.output.with_name
        found = {"output": self.output}
        if self.held_out:
            found["held_out_output"] = self.held_out_output or beside(
                stem + ".held_out" + kind_of(self.output)
            )
        return {**found, "ledger": self.ledger or beside(stem + ".ledger.jsonl")}


@dataclass(frozen=True)
class FixResult:
    """What came of it: rows_in == written + held_out + sum(dropped.values()).

    Attributes:
        dataset: What was read.
        format: The recognised format.
        targets: What was written: "output", "held_out_output" if asked for, "ledger".
        rows_in: Rows read.
        written: Rows in the copy.
        held_out: Rows held out.
        dropped: Reason -> rows.
        examples: Reason -> the first dropped row's place.
        balanced_by: "length", a column, or empty.
        balance: "output" and "held_out_output" -> counts before and after; empty without.
        prompts: "asked" (the share to hold out), "held_out" and "all" (prompts of each); empty
            where nothing is held out.
    """

    dataset: str
    format: str
    targets: dict[str, Path]
    rows_in: int
    written: int
    held_out: int
    dropped: dict[str, int]
    examples: dict[str, str]
    balanced_by: str = ""
    balance: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON."""
        plain = {**vars(self), **{name: str(path) for name, path in self.targets.items()}}
        del plain["targets"]
        return plain

    def summary(self) -> Iterator[str]:
        """The same in words, line by line."""
        held = f" + {self.held_out} held out" if "held_out_output" in self.targets else ""
        yield (
            f"{self.dataset}{f' ({self.format})' if self.format else ''}: "
            f"{amount(self.rows_in, 'row')} = {self.written} written{held} + "
            f"{sum(self.dropped.values())} dropped"
        )
        for reason, count in self.dropped.items():
            yield f"  dropped {count} {reason} (first: {self.examples[reason]})"
        for name, counts in self.balance.items():
            where = "" if name == "output" else ", held out"
            said = _lengths_in_words if self.balanced_by == "length" else _values_in_words
            yield f"  balanced by {self.balanced_by}{where}: {said(counts)}"
        if self.prompts:
            aside, prompts = int(self.prompts["held_out"]), int(self.prompts["all"])
            yield (
                f"  held out: {aside:,} of {amount(prompts, 'prompt')} ({aside / prompts:.1%}; "
                f"asked for {self.prompts['asked']:.1%})"
            )
        for name, path in self.targets.items():
            yield f"{name.replace('_', ' ')}: {path}"


def _one_of(value: str, known: tuple[str, ...], flag: str) -> None:
    if value not in known:
        raise ConfigError(f"there is no {value!r}", where=flag, fix=f"Use {', '.join(known)}.")


def _values_in_words(counts: dict[str, Any]) -> str:
    before, after = counts["before"], counts["after"]
    return ", ".join(f"{name} {before[name]} -> {after.get(name, 0)}" for name in before)


def _lengths_in_words(counts: dict[str, Any]) -> str:
    before, after = counts["before"], counts["after"]
    if not before["pairs"]:
        return "no two answers differ in length"
    return (
        f"the longer answer was the chosen one in {before['longer_chosen']:.1%} of "
        f"{before['pairs']} pairs, now in {after['longer_chosen']:.1%} of {after['pairs']}"
    )
