"""The passes over a data set that is fixed: deciding about every row, and copying.

Of every row only hashes are kept between the passes. The copies appear under their names when
every row is accounted for; the data set itself is never written to.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from orpo.audit.repair import (
    KINDS,
    Entry,
    Inspector,
    RowWriter,
    Staged,
    balance_lengths,
    balance_values,
    drop_nearly_repeated,
    drop_repeated,
    drop_reversed,
    hold_out_prompts,
    kind_of,
    near_prompts,
    schema_of,
    text_key,
)
from orpo.audit.views import PairView, view
from orpo.data.sources import open_source
from orpo.data.types import PreferencePair, Row
from orpo.errors import ConfigError, DataError
from orpo.jobs.fix_types import FixJob, FixResult

__all__ = ["Passes"]


class Passes:
    """The passes over one data set: `decide`, then `copy`."""

    def __init__(self, job: FixJob, inspect: Inspector) -> None:
        self.job, self.inspect = job, inspect
        self.entries: list[Entry] = []
        self.balance: dict[str, Any] = {}
        self._fingerprint = b""

    def decide(self) -> None:
        """Read every row once, and decide what becomes of it."""
        job, fingerprint = self.job, b""
        columns: set[str] = set()
        for row in open_source(job.dataset):
            self.entries.append(self.inspect(row))
            fingerprint = _mixed(fingerprint, row)
            columns |= set(row.values)
        self.inspect.reader.require_readable()
        self._fingerprint = fingerprint
        if "contradictions" in job.drop:
            drop_reversed(self.entries)
        if job.deduplicate != "none":
            drop_repeated(self.entries)
        while job.deduplicate == "near" and drop_nearly_repeated(self._texts()):
            pass  # without the copies, others may be the nearest
        self._hold_out()
        self._balance(columns)
        if not any(entry.kept for entry in self.entries):
            first = self.entries[0]
            raise DataError(
                f"none of {len(self.entries)} rows would be left (the first: {first.reason}, "
                f"{first.detail})",
                where=job.dataset,
                fix="See what is wrong with them: orpo data audit.",
            )

    def copy(self) -> FixResult:
        """Read every row again, and write what is kept."""
        targets, written = self.job.targets, Counter[str]()
        with ExitStack() as stack:
            staged = {name: stack.enter_context(Staged(path)) for name, path in targets.items()}
            writers = self._writers(staged, stack)
            fingerprint = b""
            for row, entry in self._rows():
                fingerprint = _mixed(fingerprint, row)
                name = "" if not entry.kept else "held_out_output" if entry.held else "output"
                if name:
                    writers[name].write(row)
                    written[name] += 1
                if name != "output":
                    staged["ledger"].file.write(_ledger_line(entry))
            for writer in writers.values():
                writer.close()
            if fingerprint != self._fingerprint:
                raise _changed(self.job.dataset)
            result = self._result(written)
            for name in ("ledger", "held_out_output", "output"):  # the copy last: then all is there
                if name in staged:
                    staged[name].commit()
        return result

    def _balance(self, columns: set[str]) -> None:
        """Balance the copy and the held-out rows, each on its own."""
        job = self.job
        if job.balance not in {"", "length", *columns}:
            raise ConfigError(
                f"there is no column {job.balance!r}; found "
                f"{', '.join(map(repr, sorted(columns)))}",
                where="--balance",
                fix="Give 'length' or a column.",
            )
        sides = {"output": False, "held_out_output": True}
        for name, held in sides.items():
            if job.balance and name in job.targets:
                side = [entry for entry in self.entries if entry.held == held]
                self.balance[name] = (
                    balance_lengths(side, job.seed, job.dataset, strict=not held)
                    if job.balance == "length"
                    else balance_values(side, job.balance, job.balance_ratio, job.seed)
                )

    def _hold_out(self) -> None:
        job = self.job
        if not job.held_out:
            return
        near = near_prompts(self._texts()) if job.deduplicate == "near" else None
        hold_out_prompts(self.entries, job.held_out, job.seed, near)
        sides = {entry.held for entry in self.entries if entry.kept}
        if len(sides) < 2:
            prompts = len({entry.group for entry in self.entries if entry.kept})
            raise ConfigError(
                f"a share of {job.held_out} of {prompts} prompts leaves one side empty with seed "
                f"{job.seed}",
                where="--held_out",
                fix="Give another share or seed, or more data.",
            )

    def _rows(self) -> Iterator[tuple[Row, Entry]]:
        """Every row with what was decided about it."""
        entries = iter(self.entries)
        for row in open_source(self.job.dataset):
            entry = next(entries, None)
            if entry is None:
                raise _changed(self.job.dataset)
            yield row, entry
        if next(entries, None) is not None:
            raise _changed(self.job.dataset)

    def _texts(self) -> Iterator[tuple[Entry, PairView]]:
        """The kept rows with their texts."""
        read = replace(self.inspect.reader)  # knows the format by now
        for row, entry in self._rows():
            if entry.kept and entry.is_pair:
                pair = read(row)
                if isinstance(pair, PreferencePair):
                    yield entry, view(pair)

    def _writers(self, staged: dict[str, Staged], stack: ExitStack) -> dict[str, RowWriter]:
        made: dict[str, RowWriter] = {}
        schema = None
        for name in ("output", "held_out_output"):
            if name in staged:
                kind = kind_of(staged[name].target)
                if kind == ".parquet" and schema is None:
                    kept = (row for row, entry in self._rows() if entry.kept)
                    schema = schema_of(kept, self.job.dataset)
                made[name] = KINDS[kind](staged[name].file, schema)
                stack.callback(made[name].release)
        return made

    def _result(self, written: Counter[str]) -> FixResult:
        dropped = Counter(entry.reason for entry in self.entries if not entry.kept)
        examples: dict[str, str] = {}
        for entry in self.entries:
            examples.setdefault(entry.reason, entry.where)
        rows, copied = len(self.entries), written["output"] + written["held_out_output"]
        if rows != copied + dropped.total():
            raise AssertionError(f"{rows} rows, {copied} written, {dropped.total()} dropped")
        return FixResult(
            self.job.dataset,
            self.inspect.reader.format,
            self.job.targets,
            rows,
            written["output"],
            written["held_out_output"],
            dict(dropped.most_common()),
            {reason: examples[reason] for reason in dropped},
            self.job.balance,
            self.balance,
            self._prompts(),
        )

    def _prompts(self) -> dict[str, float]:
        """How many prompts there are, and how many of them are held out."""
        if not self.job.held_out:
            return {}
        pairs = [entry for entry in self.entries if entry.kept and entry.is_pair]
        held = {entry.group for entry in pairs if entry.held}
        every = {entry.group for entry in pairs}
        return {"asked": self.job.held_out, "held_out": len(held), "all": len(every)}


def _mixed(fingerprint: bytes, row: Row) -> bytes:
    """A running hash of rows, to notice that a file changed between two readings."""
    try:
        return text_key(f"{fingerprint.hex()} {row.where} {row.values!r}")
    except RecursionError:  # nested beyond what can be written, so it is refused there
        return fingerprint


def _changed(dataset: str) -> DataError:
    return DataError(
        "changed while it was read", where=dataset, fix="Run again when nobody writes to it."
    )


def _ledger_line(entry: Entry) -> bytes:
    change = {
        "where": entry.where,
        "row": entry.index + 1,
        "action": "held_out" if entry.kept else "dropped",
        "reason": "held_out" if entry.kept else entry.reason,
        "detail": entry.detail,
    }
    return json.dumps(change).encode() + b"\n"
