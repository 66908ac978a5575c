"""What `orpo data fix` is asked for, and what came of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo.audit.faults import CHECKS
from orpo.errors import ConfigError, require_package
from orpo.options import argument, option
from orpo.quantities import as_count

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
        choices=("exact", "near", "none"),
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
        margin, fix = self.min_score_margin, ""
        unknown = next((name for name in self.drop if name not in CHECKS), None)
        if unknown is not None:
            what, flag, fix = f"there is no {unknown!r}", "drop", f"Use {', '.join(CHECKS)}."
        elif not 0 <= self.held_out < 1:
            what, flag = f"must be at least 0 and below 1, is {self.held_out}", "held_out"
        elif self.held_out_output is not None and not self.held_out:
            what, flag = "needs --held_out, the share to hold out", "held_out_output"
            fix = "Add --held_out 0.05."
        elif not self.balance_ratio >= 1:
            what, flag = f"must be at least 1, is {self.balance_ratio}", "balance_ratio"
        elif margin is not None and not abs(margin) < float("inf"):
            what, flag = f"must be a number, is {margin}", "min_score_margin"
        else:
            return
        raise ConfigError(what, where=f"--{flag}", fix=fix)

    @property
    def targets(self) -> dict[str, Path]:
        """What is written: the copy, the held-out rows if there are any, and the ledger."""
        kind, beside = kind_of(self.output), self.output.with_name
        stem, found = self.output.name.removesuffix(kind), {"output": self.output}
        if self.held_out:
            found["held_out_output"] = self.held_out_output or beside(f"{stem}.held_out{kind}")
        return {**found, "ledger": self.ledger or beside(f"{stem}.ledger.jsonl")}

    def check_targets(self) -> None:
        """Refuse to write over the data set, over each other, or over what is there unasked."""
        source, taken = Path(self.dataset).expanduser(), dict[Path, str]()
        for name, path in self.targets.items():
            where, resolved = str(path), path.resolve()
            if name != "ledger":
                kind_of(path)
            same = path.exists() and source.exists() and path.samefile(source)  # also by links
            if same or source.resolve() in (resolved, *resolved.parents):
                what = f"would overwrite the data set {self.dataset} or become a part of it"
                fix = "Give another name; data are never changed in place."
            elif resolved in taken:
                where, what = f"--{name}", f"is {taken[resolved]} already"
                fix = "Give each its own file."
            elif path.is_dir():
                what, fix = "is a folder", "Give the name of a file."
            elif path.exists() and not self.overwrite:
                what, fix = "is there already", "Give another name, or --overwrite."
            else:
                taken[resolved] = "the copy's file" if name == "output" else f"the file of --{name}"
                continue
            raise ConfigError(what, where=where, fix=fix)
        if self.deduplicate == "near":
            instead = ", or use --deduplicate exact."
            require_package("datasketch", where="--deduplicate near", fix=instead)


@dataclass(frozen=True)
class Repaired:
    """What came of it: rows_in == written + held_out + sum(dropped.values())."""

    dataset: str
    format: str
    targets: dict[str, Path]  # what was written: as `Repair.targets`
    rows_in: int
    written: int
    held_out: int
    dropped: dict[str, int]  # reason -> rows
    examples: dict[str, str]  # reason -> the place of the first one
    balanced_by: str = ""
    balance: dict[str, Any] = field(default_factory=dict)  # target -> counts before and after
    prompts: dict[str, float] = field(default_factory=dict)  # the share "asked", "held_out", "all"

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
            f"{as_count(self.rows_in, 'row')} = {self.written} written{held} + "
            f"{sum(self.dropped.values())} dropped"
        )
        for reason, count in self.dropped.items():
            yield f"  dropped {count} {reason} (first: {self.examples[reason]})"
        for name, counts in self.balance.items():
            where = "" if name == "output" else ", held out"
            yield f"  balanced by {self.balanced_by}{where}: {self._balanced(**counts)}"
        if self.prompts:
            aside, prompts = int(self.prompts["held_out"]), int(self.prompts["all"])
            yield (
                f"  held out: {aside:,} of {as_count(prompts, 'prompt')} ({aside / prompts:.1%}; "
                f"asked for {self.prompts['asked']:.1%})"
            )
        for name, path in self.targets.items():
            yield f"{name.replace('_', ' ')}: {path}"

    def _balanced(self, before: dict[str, Any], after: dict[str, Any]) -> str:
        if self.balanced_by != "length":
            return ", ".join(f"{name} {n} -> {after.get(name, 0)}" for name, n in before.items())
        if not before["pairs"]:
            return "no two answers differ in length"
        return (
            f"the longer answer was the chosen one in {before['longer_chosen']:.1%} of "
            f"{before['pairs']} pairs, now in {after['longer_chosen']:.1%} of {after['pairs']}"
        )


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
