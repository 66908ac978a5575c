"""What `orpo data fix` is asked for, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo.audit.faults import CHECKS
from orpo.audit.findings import amount
from orpo.audit.shingles import minhash_available
from orpo.errors import ConfigError
from orpo.options import argument, option

DEDUPLICATIONS = ("exact", "near", "none")
KINDS = (".jsonl", ".jsonl.gz", ".parquet")
"""Kinds of files that a copy can be."""


@dataclass(frozen=True)
class Repair:
    """What is to be mended, and where the result goes."""

    dataset: str = argument("DATASET", help="a file, a folder or a Hub id")
    output: Path = argument("OUT", help="the copy: .jsonl, .jsonl.gz or .parquet")
    drop: tuple[str, ...] = option(
        CHECKS,
        metavar="CHECKS",
        parse=lambda text: tuple(text.replace(" ", "").split(",")),
        help=f"checks that drop rows, by comma; default all: {', '.join(CHECKS)}; lines that "
        "cannot be read and answers that make no pair (equal scores, a single one) always go",
    )
    deduplicate: str = option(
        "exact",
        choices=DEDUPLICATIONS,
        help="drop rows that repeat an earlier one word for word (default), or nearly do",
    )
    min_score_margin: float | None = option(
        None, metavar="X", help="least difference of scores: low_margin"
    )
    balance: str = option(
        "",
        metavar="WHAT",
        help="length: the longer answer is the chosen one in half of the pairs; or a column",
    )
    balance_ratio: float = option(
        1.0,
        metavar="R",
        help="how many times the rows of the smallest category another may have; default 1",
    )
    held_out: float = option(0.0, metavar="SHARE", help="of the prompts, e.g. 0.05")
    held_out_output: Path | None = option(
        None, metavar="FILE", help="default beside OUT: clean.held_out.jsonl"
    )
    ledger: Path | None = option(
        None, metavar="FILE", help="default beside OUT: clean.ledger.jsonl"
    )
    seed: int = option(42, help="of what is drawn; default 42")
    overwrite: bool = option(False, help="replace files of these names")

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
            held = beside(stem + ".held_out" + kind_of(self.output))
            found["held_out_output"] = self.held_out_output or held
        return {**found, "ledger": self.ledger or beside(stem + ".ledger.jsonl")}

    def check_targets(self) -> None:
        """Refuse to write over the data set, over each other, or over what is there unasked."""
        source, taken = Path(self.dataset).expanduser(), dict[Path, str]()
        for name, path in self.targets.items():
            flag, resolved = f"--{name}" if name != "output" else str(path), path.resolve()
            if name != "ledger":
                kind_of(path)
            same = path.exists() and source.exists() and path.samefile(source)  # also by links
            if same or source.resolve() in (resolved, *resolved.parents):
                raise ConfigError(
                    f"would overwrite the data set {self.dataset} or become a part of it",
                    where=str(path),
                    fix="Give another name; data are never changed in place.",
                )
            if resolved in taken:
                raise ConfigError(
                    f"is {taken[resolved]} already", where=flag, fix="Give each its own file."
                )
            taken[resolved] = f"the file of --{name}" if name != "output" else "the copy's file"
            if path.is_dir():
                raise ConfigError("is a folder", where=str(path), fix="Give the name of a file.")
            if path.exists() and not self.overwrite:
                raise ConfigError(
                    "is there already", where=str(path), fix="Give another name, or --overwrite."
                )
        if self.deduplicate == "near" and not minhash_available():
            raise ConfigError(
                "near duplicates need the package datasketch",
                where="--deduplicate near",
                fix="pip install 'orpo[data]', or use --deduplicate exact.",
            )


@dataclass(frozen=True)
class Repaired:
    """What came of it: rows_in == written + held_out + sum(dropped.values()).

    Attributes:
        targets: What was written: "output", "held_out_output" if asked for, "ledger".
        dropped: Reason -> rows; `examples` has the place of the first one.
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


def kind_of(path: Path) -> str:
    """The suffix out of `KINDS`."""
    name = path.name.lower()
    for kind in KINDS:
        if name.endswith(kind) and name != kind:
            return kind
    raise ConfigError(
        f"unknown kind of file {path.suffix or path.name!r}",
        where=str(path),
        fix=f"Give a name that ends in {', '.join(KINDS)}.",
    )


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
